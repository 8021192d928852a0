package erofs

import (
	"bytes"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	goerofs "github.com/erofs/go-erofs"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// What another project's reader, written from the format alone, makes of an image.
// The kernel has its own tests; this one can look where there is no kernel.
func TestAnotherReader(t *testing.T) {
	for _, block := range []uint8{9, 12} {
		t.Run(fmt.Sprintf("blocks of %d", 1<<block), func(t *testing.T) {
			w := newWorld(t, 3)
			w.block, w.scatter = block, true
			w.everything()
			// Its paths are those of io/fs: names that are not UTF-8 it can't be asked for.
			w.settle()
			w.readBy(t)
		})
	}
}

func (w *world) readBy(t *testing.T) {
	m := w.manifest()
	mem, _ := w.written(w.options())
	var devices []goerofs.OpenOpt
	for _, b := range w.bundles {
		devices = append(devices, goerofs.WithExtraDevices(bytes.NewReader(b.Bytes())))
	}
	img, err := goerofs.Open(mem, devices...)
	require.NoError(t, err)
	seen := map[string]bool{}
	for i := range m.Entries {
		e := &m.Entries[i]
		name := e.Path
		if name == "" {
			name = "."
		}
		if !fs.ValidPath(name) || tooDeep(name) {
			continue
		}
		seen[name] = true
		if slices.ContainsFunc(e.Xattrs, func(x snapshot.Xattr) bool { return len(x.Value) > 2048 }) {
			continue // more than it reads of a shared attribute
		}
		w.readEntry(t, img, name, e)
	}
	require.NoError(t, fs.WalkDir(img, ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil {
			require.True(t, seen[name] || !fs.ValidPath(name) || tooDeep(name), "%q is in no manifest", name)
		}
		if tooDeep(name) {
			return fs.SkipDir
		}
		return nil
	}))
}

// tooDeep: it looks up every part of a path for each entry, without a cache.
func tooDeep(name string) bool { return strings.Count(name, "/") > 100 }

func (w *world) readEntry(t *testing.T, img fs.FS, name string, e *snapshot.Entry) {
	links, ok := img.(fs.ReadLinkFS)
	require.True(t, ok)
	fi, err := links.Lstat(name)
	require.NoError(t, err, "stat %q", name)
	st, ok := fi.Sys().(*goerofs.Stat)
	require.True(t, ok)
	require.Equal(t, e.Mode, uint32(fi.Mode())&snapshot.ModeMask, "mode of %q", name) // it leaves the bits where they are on disk
	require.Equal(t, [2]uint32{e.UID, e.GID}, [2]uint32{st.UID, st.GID}, "owner of %q", name)
	sec, nsec := splitTime(e.MTime)
	require.Equal(t, [2]int64{sec, int64(nsec)}, [2]int64{int64(st.Mtime), int64(st.MtimeNs)}, "mtime of %q", name)
	for _, x := range e.Xattrs {
		key := x.Name
		if key == nameACLAccess || key == nameACLDefault {
			key += "." // it takes these two for prefixes; the kernel shows them without
		}
		require.Equal(t, string(x.Value), st.Xattrs[key], "attribute %q of %q", x.Name, name)
	}
	switch e.Type {
	case snapshot.TypeDir:
		require.True(t, fi.IsDir())
	case snapshot.TypeSymlink:
		target, err := links.ReadLink(name)
		require.NoError(t, err, "read link %q", name)
		require.Equal(t, e.Target, target)
	case snapshot.TypeFifo:
		require.NotZero(t, fi.Mode()&fs.ModeNamedPipe)
	case snapshot.TypeSocket:
		require.NotZero(t, fi.Mode()&fs.ModeSocket)
	case snapshot.TypeFile:
		require.Equal(t, e.Size, fi.Size(), "size of %q", name)
		if e.Size <= 4<<20 {
			got, err := fs.ReadFile(img, name)
			require.NoError(t, err, "read %q", name)
			require.True(t, bytes.Equal(w.plain(e), got), "content of %q", name)
		}
	}
}

// plain is a small file's content.
func (w *world) plain(e *snapshot.Entry) []byte {
	first := e.Path
	if e.Link != "" {
		first = e.Link
	}
	out := make([]byte, e.Size)
	for _, r := range w.data[first] {
		copy(out[r.off:], r.data)
	}
	return out
}
