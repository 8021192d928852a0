package view

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// TestFaninCopiesNothing: a merged view is made of stubs.
func TestFaninCopiesNothing(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "base", "b") })
	b, bm := h.job(a, am, func(dir string) { h.put(dir, "from-b", "b's") })
	_, cm := h.job(a, am, func(dir string) {
		h.put(dir, "d/from-c", strings.Repeat("c", 1<<20))
		require.NoError(t, os.Chmod(filepath.Join(dir, "base"), 0o600))
	})
	meter := &Meter{}
	v, err := h.d.Prepare(t.Context(), Spec{
		ID: newID(t), Base: b, Fanin: &Fanin{Changes: ChangesOf(tree.Diff(am, cm))},
		Target: filepath.Join(h.slot, "m"), Meter: meter,
	})
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("c", 1<<20), h.get(v.Target, "d/from-c"))
	require.Equal(t, "b", h.get(v.Target, "base"))
	require.Zero(t, meter.Written(), "what lies below the view by its own name needs no copy")
	require.Len(t, v.Layer.Data, 1)
	require.NoError(t, h.d.Discard(t.Context(), v))
	_ = bm
}

// TestDataOverLower: the kernel refuses a data directory that contains a layer of
// the same mount. What lies there is referred to by the path at which the layers
// show it, and copied where they show something else there.
func TestDataOverLower(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) {
		h.put(dir, "d/old", "content")
		h.put(dir, "d/other", "content 2")
	})
	b, bm := h.job(a, am, func(dir string) { h.put(dir, "d/other", "changed by b") })
	_, cm := h.job(a, am, func(dir string) {
		require.NoError(t, unix.Rename(filepath.Join(dir, "d/old"), filepath.Join(dir, "new")))
		require.NoError(t, os.Link(filepath.Join(dir, "d/other"), filepath.Join(dir, "d/linked")))
		require.NoError(t, unix.Rename(filepath.Join(dir, "d/other"), filepath.Join(dir, "other2")))
	})
	t.Run("the trap", func(t *testing.T) {
		s, done, err := h.d.stackOf(t.Context(), b)
		require.NoError(t, err)
		defer done()
		s.data = []string{h.d.dir(a.ID)}
		require.ErrorIs(t, mountStack(s, t.TempDir(), false), unix.ELOOP)
	})
	var ch []snapshot.Change
	for _, c := range tree.Diff(am, cm) {
		if !c.Delete || c.Entry.Path != "d/other" {
			ch = append(ch, c)
		}
	}
	meter := &Meter{}
	v, err := h.d.Prepare(t.Context(), Spec{
		ID: newID(t), Base: b, Fanin: &Fanin{Changes: ChangesOf(ch)},
		Target: filepath.Join(h.slot, "m"), Meter: meter,
	})
	require.NoError(t, err)
	require.Equal(t, "content", h.get(v.Target, "new"))
	require.NoFileExists(t, filepath.Join(v.Target, "d/old"))
	require.Equal(t, "changed by b", h.get(v.Target, "d/other"))
	require.Equal(t, "content 2", h.get(v.Target, "d/linked"))
	require.Equal(t, "content 2", h.get(v.Target, "other2"))
	// d/linked and other2 are one file whose content a's layer has as d/other,
	// which b's hides: it is copied, once for both names.
	require.Equal(t, int64(len("content 2")), meter.Written())
	want, err := tree.Apply(bm, ch)
	require.NoError(t, err)
	require.NoError(t, h.d.Seal(t.Context(), v))
	got := h.tree(&v.Layer, want)
	require.Len(t, got.Entries, len(want.Entries))
	w := h.prepare(&v.Layer, nil)
	require.Equal(t, "content", h.get(w.Target, "new"))
	require.Equal(t, "content 2", h.get(w.Target, "other2"))
	require.NoError(t, h.d.Discard(t.Context(), w))
}

// TestLongRedirects: stubs of files at long paths.
func TestLongRedirects(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
	long := strings.Repeat(strings.Repeat("d", 200)+"/", 15) + "file"
	_, cm := h.job(a, am, func(dir string) { h.put(dir, long, "deep") })
	v := h.prepare(a, &Fanin{Changes: ChangesOf(tree.Diff(am, cm))})
	require.Equal(t, "deep", h.get(v.Target, long))
	require.NoError(t, h.d.Discard(t.Context(), v))
}

// TestForgedDataName: a job that made /u<id>/... in its tree must not stand in for
// the files of that layer.
func TestForgedDataName(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
	c, cm := h.job(a, am, func(dir string) { h.put(dir, "true", "true content") })
	b, _ := h.job(a, am, func(dir string) { h.put(dir, "u"+string(c.ID)+"/true", "false!!!!!!!") })
	v := h.prepare(b, &Fanin{Changes: ChangesOf(tree.Diff(am, cm))})
	require.Equal(t, "true content", h.get(v.Target, "true"))
	require.NoError(t, h.d.Discard(t.Context(), v))
}

// TestStubsOfChangedSources: a source that is not what it was is an error, never a
// short read or zeros.
func TestStubsOfChangedSources(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
	c, cm := h.job(a, am, func(dir string) { h.put(dir, "new", "long enough") })
	src := filepath.Join(h.d.abs(c.Dir), "new")
	require.NoError(t, os.Truncate(src, 3))
	_, err := h.d.Prepare(t.Context(), Spec{ID: newID(t), Base: a, Fanin: &Fanin{Changes: ChangesOf(tree.Diff(am, cm))}, Target: filepath.Join(h.slot, "x")})
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, err, &corrupt)
}

// TestNoStrayWhiteouts: a list that deletes what is not there leaves no device in
// a directory that is not merged with anything.
func TestNoStrayWhiteouts(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x"); h.put(dir, "was/x", "y") })
	dirEntry := func(p string) snapshot.Entry { return snapshot.Entry{Path: p, Type: snapshot.TypeDir, Mode: 0o755} }
	ch := []snapshot.Change{
		{Entry: dirEntry("new")},
		{Delete: true, Entry: snapshot.Entry{Path: "new/x"}},
		{Replace: true, Entry: dirEntry("was")},
		{Delete: true, Entry: snapshot.Entry{Path: "was/x"}},
	}
	v := h.prepare(a, &Fanin{Changes: ChangesOf(ch)})
	want, err := tree.Apply(am, ch)
	require.NoError(t, err)
	got, err := tree.Scan(t.Context(), v.Target, tree.ScanOptions{Owners: true})
	require.NoError(t, err)
	require.Len(t, got.Entries, len(want.Entries))
	require.NoError(t, h.d.Discard(t.Context(), v))
}

// TestForgedMarks: marks that a job sets are stored escaped by the kernel, and
// refused.
func TestForgedMarks(t *testing.T) {
	h := newHost(t, Options{})
	for _, name := range []string{"trusted.overlay.redirect", "trusted.overlay.opaque", "trusted.overlay.metacopy", "trusted.overlay.whiteout"} {
		v := h.prepare(nil, nil)
		h.put(v.Target, "f", "x")
		err := unix.Setxattr(filepath.Join(v.Target, "f"), name, []byte("y"), 0)
		if err == nil {
			require.NoError(t, h.d.Seal(t.Context(), v))
			_, err = h.d.Changes(t.Context(), &v.Layer, nil)
			var un *snapshot.UnsupportedError
			require.ErrorAs(t, err, &un, name)
		}
		require.NoError(t, h.d.Discard(t.Context(), v))
	}
	// A whiteout by hand is refused by the kernel or hides nothing of the base.
	v := h.prepare(nil, nil)
	if err := unix.Mknod(filepath.Join(v.Target, "w"), unix.S_IFCHR, 0); err == nil {
		require.NoError(t, h.d.Seal(t.Context(), v))
	}
	require.NoError(t, h.d.Discard(t.Context(), v))
}

// TestImmutable: chattr in a view does not stop the layer from being sealed, used
// and deleted.
func TestImmutable(t *testing.T) {
	if _, err := exec.LookPath("chattr"); err != nil {
		t.Skip("no chattr")
	}
	h := newHost(t, Options{})
	l, m := h.job(nil, nil, func(dir string) {
		h.put(dir, "d/f", "x")
		out, err := exec.Command("chattr", "+i", filepath.Join(dir, "d/f")).CombinedOutput()
		require.NoError(t, err, string(out))
		out, err = exec.Command("chattr", "+a", filepath.Join(dir, "d")).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	_, ok := m.Find("d/f")
	require.True(t, ok)
	require.NoError(t, h.d.Remove(t.Context(), l))
}

// TestHardLinksOfALower: with index=off a name splits from its group when it is
// written to, and nothing of that is lost when the upper becomes a lower.
func TestHardLinksOfALower(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) {
		h.put(dir, "one", "old")
		require.NoError(t, os.Link(filepath.Join(dir, "one"), filepath.Join(dir, "two")))
	})
	b, bm := h.job(a, am, func(dir string) { h.put(dir, "two", "new") })
	e, _ := bm.Find("one")
	require.Empty(t, e.Link)
	v := h.prepare(b, nil)
	require.Equal(t, "old", h.get(v.Target, "one"))
	require.Equal(t, "new", h.get(v.Target, "two"))
	require.NoError(t, h.d.Discard(t.Context(), v))
}

// TestUnpackFillsHoles: what is not written is a hole, in whatever order it comes.
func TestUnpackFillsHoles(t *testing.T) {
	h := newHost(t, Options{})
	ch := []snapshot.Change{{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Mode: 0o444, Size: 64 << 20}}}
	m := &Meter{}
	l, err := h.d.Unpack(t.Context(), newID(t), nil, ch, func(_ context.Context, w WriteFunc) error {
		errs := make(chan error)
		for i := range 4 {
			go func() { errs <- w(0, int64(3-i)<<24, []byte("data")) }()
		}
		var all []error
		for range 4 {
			all = append(all, <-errs)
		}
		return errors.Join(append(all, w(0, 64<<20, nil))...)
	}, m)
	require.NoError(t, err)
	require.Equal(t, int64(16), m.Written())
	h.d.Locate(l, ch)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(ch[0].Entry.Source, &st))
	require.Equal(t, int64(64<<20), st.Size)
	require.Less(t, st.Blocks, int64(1024))
}
