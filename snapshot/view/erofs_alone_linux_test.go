package view

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// fewLarge is a tree in which large files are few: one that ends within a block, and one
// that ends with zeros, which nobody writes.
func fewLarge() map[string]string {
	files := map[string]string{
		"big":  large + "the last bytes",
		"zero": large + string(make([]byte, 3*4096+5)),
	}
	for i := range 2*len(large)/joinedBytes + 10 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = fmt.Sprint("file ", i)
	}
	return files
}

func (h *ehost) shownBy(l *Layer) int64 {
	h.t.Helper()
	at := filepath.Join(filepath.Dir(h.root), "by")
	c, err := h.e.Mount(h.t.Context(), l, at)
	require.NoError(h.t, err)
	var st unix.Statfs_t
	require.NoError(h.t, unix.Statfs(at, &st))
	require.NotZero(h.t, st.Flags&unix.ST_RDONLY)
	require.NotZero(h.t, st.Flags&unix.ST_NOSUID)
	require.NotZero(h.t, st.Flags&unix.ST_NODEV)
	require.NoError(h.t, c.Close())
	require.NoDirExists(h.t, at)
	return st.Type
}

const erofsMagic = 0xE0F5E1E2

// Who only looks gets the image alone where that shows all, and the same as ever.
func TestErofsAlone(t *testing.T) {
	h := newErofsHostBy(t, Options{ToLook: true}, erofs.FileBacked)
	files := fewLarge()
	l, m := h.unpack(nil, nil, files)
	require.Empty(t, l.Data)
	h.shows(l, files)
	require.EqualValues(t, erofsMagic, h.shownBy(l))

	at := filepath.Join(filepath.Dir(h.root), "map")
	c, err := h.e.Mount(t.Context(), l, at)
	require.NoError(t, err)
	saw, err := tree.Scan(t.Context(), at, tree.ScanOptions{Owners: true})
	require.NoError(t, err)
	bare := func(m *snapshot.Manifest) *snapshot.Manifest {
		out := &snapshot.Manifest{}
		for _, e := range m.Entries {
			e.Chunks, e.Source, e.SourceAt = []snapshot.Chunk{}, "", 0
			out.Entries = append(out.Entries, e)
		}
		return out
	}
	require.Zero(t, len(tree.Diff(bare(m), bare(saw))))
	f, err := os.Open(filepath.Join(at, "big"))
	require.NoError(t, err)
	mapped, err := unix.Mmap(int(f.Fd()), 0, len(files["big"]), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	require.True(t, files["big"] == string(mapped))
	require.NoError(t, unix.Munmap(mapped))
	require.NoError(t, f.Close())
	require.NoError(t, c.Close())

	// A job may write to all of it, and its view is an overlay; so is what shows that.
	v := h.prepare(l, nil)
	h.put(v.Target, "big", "small")
	require.True(t, files["zero"] == h.get(v.Target, "zero"))
	require.NoError(t, h.e.Seal(t.Context(), v))
	require.EqualValues(t, unix.OVERLAYFS_SUPER_MAGIC, h.shownBy(&v.Layer))
	h.shows(&v.Layer, map[string]string{"big": "small", "zero": files["zero"]})

	// Nothing but the layer says where its large files are, to whoever opens the store.
	d, err := openErofs(h.root, Options{Owners: true}, "")
	require.NoError(t, err)
	ch := tree.Diff(nil, m)
	for i := range ch {
		ch[i].Entry.Source, ch[i].Entry.SourceAt = "", 0
	}
	d.Locate(l, ch)
	for i := range ch {
		e, ok := m.Find(ch[i].Entry.Path)
		require.True(t, ok)
		require.Equal(t, e.Source, ch[i].Entry.Source, e.Path)
		require.Equal(t, e.SourceAt, ch[i].Entry.SourceAt, e.Path)
	}
}

// Where it would not pay, where a file has holes, and where nobody wants it, large files
// are files of their own.
func TestErofsNotAlone(t *testing.T) {
	h := newErofsHostBy(t, Options{ToLook: true}, erofs.FileBacked)
	l, _ := h.unpack(nil, nil, map[string]string{"big": large, "a": "a"})
	require.NotEmpty(t, l.Data)
	require.EqualValues(t, unix.OVERLAYFS_SUPER_MAGIC, h.shownBy(l))
	h.shows(l, map[string]string{"big": large, "a": "a"})

	sparse := newBundlePlan(0)
	for i := range 10_000 {
		sparse.add(false, &snapshot.Entry{Path: fmt.Sprint(i), Type: snapshot.TypeFile, Size: 1})
	}
	require.False(t, sparse.canJoin(), "there is none")
	e := snapshot.Entry{Path: "z", Type: snapshot.TypeFile, Size: bundleMost}
	sparse.add(false, &e)
	require.True(t, sparse.canJoin())
	e.Chunks = []snapshot.Chunk{{Off: 0, Len: 1}}
	sparse.add(false, &e)
	require.False(t, sparse.canJoin())

	for _, m := range []erofs.Method{erofs.FileBacked, erofs.Loop} {
		h := newErofsHostBy(t, Options{ToLook: m == erofs.Loop}, m)
		l, _ := h.unpack(nil, nil, fewLarge())
		require.NotEmpty(t, l.Data)
		require.EqualValues(t, unix.OVERLAYFS_SUPER_MAGIC, h.shownBy(l))
	}
	loop := newErofsHostBy(t, Options{}, erofs.Loop)
	l, _ = loop.unpack(nil, nil, map[string]string{"a": "a"})
	require.EqualValues(t, unix.OVERLAYFS_SUPER_MAGIC, loop.shownBy(l), "nobody could tell whose it is")
}

// Of a plan with its large files joined the bundle has all, each with room of its own,
// and names of one file share a place.
func TestBundlePlanJoined(t *testing.T) {
	p := newBundlePlan(0)
	for _, e := range []snapshot.Entry{
		{Path: "a", Size: 700},
		{Path: "b", Size: bundleMost, Link: "b"},
		{Path: "c", Size: 1},
		{Path: "d", Size: bundleMost, Link: "b"},
		{Path: "e", Size: bundleMost + 1},
		{Path: "f"},
	} {
		e.Type = snapshot.TypeFile
		p.add(false, &e)
	}
	p.join()
	require.Equal(t, []spot{{at: 512}, {at: 2048}, {at: 1536}, {at: 2048}, {at: 2048 + bundleMost}, {}}, p.spots)
	require.EqualValues(t, 2048+2*bundleMost+512, p.bytes)
	require.Zero(t, p.objects)
}

// An image that an earlier process showed somewhere is found by its file, like an overlay
// by its directories, and ended but for one that is to stay.
func TestErofsReconcileImages(t *testing.T) {
	h := newErofsHostBy(t, Options{}, erofs.FileBacked)
	l, _ := h.unpack(nil, nil, map[string]string{"a": "a"})
	dir := filepath.Dir(h.root)
	gone, stays := filepath.Join(dir, "gone with it"), filepath.Join(dir, "stays")
	for _, at := range []string{gone, stays} {
		_, err := h.e.Mount(t.Context(), l, at) // nobody closes it
		require.NoError(t, err)
	}
	d, err := openErofs(h.root, Options{Owners: true, Keep: map[string]bool{stays: true}}, "")
	require.NoError(t, err)
	report, err := d.Reconcile(t.Context(), nil, nil)
	require.NoError(t, err)
	require.Contains(t, report, "unmounted "+gone)
	require.NoDirExists(t, gone)
	require.Equal(t, "a", h.get(stays, "a"), "and what it shows is there")
	require.DirExists(t, h.d.dir(l.ID))

	report, err = h.e.Reconcile(t.Context(), []snapshot.ID{l.ID}, nil)
	require.NoError(t, err)
	require.Contains(t, report, "unmounted "+stays)
	h.shows(l, map[string]string{"a": "a"})
}

// What is mounted alone outlives the driver, its image's other mounts and its bundle's
// name.
func TestErofsAloneOutlives(t *testing.T) {
	h := newErofsHostBy(t, Options{}, erofs.FileBacked)
	want := bytes.Repeat([]byte("a"), 100_000)
	l, _ := h.unpack(nil, nil, map[string]string{"a": string(want)})
	at := filepath.Join(filepath.Dir(h.root), "at")
	c, err := h.e.Mount(t.Context(), l, at)
	require.NoError(t, err)
	require.NoError(t, h.e.Close())
	require.NoError(t, os.Remove(h.d.abs(bundleOf(l.ID))))
	f, err := os.Open(filepath.Join(at, "a"))
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.NoError(t, f.Close())
	require.NoError(t, c.Close())
	require.NoError(t, h.e.Remove(context.Background(), l))
}
