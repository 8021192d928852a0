package view_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

const indexHead = 89 // bytes of an index before its body; the sum behind it has 32

// FuzzUnpack is an attacker who writes the list of changes. It is refused and
// leaves nothing, or what is unpacked is exactly what it says; what is beside the
// store stays as it is either way.
func FuzzUnpack(f *testing.F) {
	z, err := zstd.NewReader(nil)
	require.NoError(f, err)
	defer z.Close()
	for _, changes := range fuzzSeeds() {
		var b bytes.Buffer
		if _, err := pack.WriteIndex(&b, &pack.Index{Changes: changes}); err != nil {
			continue // refused by the writer already
		}
		body := b.Bytes()[indexHead : b.Len()-sha256.Size]
		if b.Bytes()[72] == pack.CodecZstd {
			plain, err := z.DecodeAll(body, nil)
			require.NoError(f, err)
			body = plain
		}
		f.Add(body)
	}
	root, err := filepath.EvalSymlinks(f.TempDir())
	require.NoError(f, err)
	canary := filepath.Join(root, "canary")
	require.NoError(f, os.WriteFile(canary, []byte("alive"), 0o644))
	d, err := view.NewCopy(filepath.Join(root, "store"), view.Options{Owners: os.Geteuid() == 0})
	require.NoError(f, err)
	n := 0
	f.Fuzz(func(t *testing.T, body []byte) {
		ix, err := pack.ReadIndex(bytes.NewReader(wrapped(body)))
		if err != nil || tooMuch(ix.Changes) {
			return
		}
		changes := ix.Changes
		if len(changes) == 0 || changes[0].Entry.Path != "" { // the store sees to it that a tree has a root
			changes = slices.Insert(changes, 0, snapshot.Change{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}})
		}
		n++
		id := snapshot.ID(fmt.Sprintf("%026d", n))
		l, err := d.Unpack(t.Context(), id, nil, changes, func(context.Context, view.WriteFunc) error { return nil }, nil)
		if err == nil {
			require.NoError(t, tree.ValidateChanges(changes), "unpacked all the same")
			sameTree(t, filepath.Join(root, "store", filepath.FromSlash(l.Dir)), changes)
			require.NoError(t, d.Remove(t.Context(), l))
		}
		views, rerr := os.ReadDir(filepath.Join(root, "store", "views"))
		require.NoError(t, rerr)
		require.Empty(t, views, "left of it: %v", err)
		around, rerr := os.ReadDir(root)
		require.NoError(t, rerr)
		require.Len(t, around, 2)
		b, rerr := os.ReadFile(canary)
		require.NoError(t, rerr)
		require.Equal(t, "alive", string(b))
	})
}

// wrapped makes an index of a body that is stored as it is.
func wrapped(body []byte) []byte {
	b := append([]byte("RSTINDX"), 1)
	b = append(b, make([]byte, 65)...) // of nothing into nothing, not compressed
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(body)))
	b = append(b, body...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// tooMuch leaves out what takes long and finds nothing.
func tooMuch(changes []snapshot.Change) bool {
	return len(changes) > 200 || slices.ContainsFunc(changes, func(c snapshot.Change) bool { return c.Entry.Size > 1<<40 })
}

// sameTree compares names and looks; of contents there are none.
func sameTree(t *testing.T, dir string, changes []snapshot.Change) {
	want, err := tree.Apply(nil, changes)
	if err != nil {
		return // the store would not have come so far
	}
	got, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Owners: os.Geteuid() == 0})
	require.NoError(t, err)
	for _, m := range []*snapshot.Manifest{want, got} {
		for i := range m.Entries {
			e := &m.Entries[i]
			e.Source, e.Chunks = "", nil
			if e.Type == snapshot.TypeSymlink {
				e.Mode = 0o777
			}
			if os.Geteuid() != 0 {
				e.UID, e.GID = 0, 0
			}
			if e.Type == snapshot.TypeFile {
				e.Chunks = []snapshot.Chunk{}
			}
		}
	}
	require.Empty(t, tree.Diff(want, got))
}

func fuzzSeeds() [][]snapshot.Change {
	put := func(e snapshot.Entry) snapshot.Change { return snapshot.Change{Entry: e} }
	dir := func(p string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755, MTime: 1e18})
	}
	file := func(p, link string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeFile, Mode: 0o644, Size: 5, Link: link, Chunks: []snapshot.Chunk{}})
	}
	soft := func(p, to string) snapshot.Change {
		return put(snapshot.Entry{Path: p, Type: snapshot.TypeSymlink, Mode: 0o777, Target: to})
	}
	marked := func(name string) snapshot.Change {
		c := file("marked", "")
		c.Entry.Xattrs = []snapshot.Xattr{{Name: name, Value: []byte("/canary")}}
		return c
	}
	return [][]snapshot.Change{
		{dir(""), dir("a"), file("a/b", "a/b"), file("a/c", "a/b"), soft("l", "a/b"), put(snapshot.Entry{Path: "p", Type: snapshot.TypeFifo})},
		{soft("a", "../.."), file("a/canary", "")},
		{soft("a", "."), dir("a/b")},
		{file("a", ""), file("a/b", "")},
		{file("x", "nowhere"), file("y", "nowhere")},
		{dir("a"), file("b", "a")},
		{marked("user.ok")},
		{marked("trusted.overlay.redirect")},
		{marked("security.capability")},
		{put(snapshot.Entry{Path: "s", Type: snapshot.TypeFile, Mode: 0o6755, Size: 1 << 30, UID: 5, Chunks: []snapshot.Chunk{}})},
		{{Delete: true, Entry: snapshot.Entry{Path: "gone"}}, {Replace: true, Entry: snapshot.Entry{Path: "new", Type: snapshot.TypeDir, Mode: 0o700}}},
	}
}
