package view

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

func (h *ehost) sameFile(a, b *Layer) bool {
	h.t.Helper()
	x, err := os.Stat(h.d.abs(a.Image))
	require.NoError(h.t, err)
	y, err := os.Stat(h.d.abs(b.Image))
	require.NoError(h.t, err)
	return os.SameFile(x, y)
}

func (h *ehost) mounted() int {
	h.t.Helper()
	m, err := mountsAt(h.d.abs(mntDir))
	require.NoError(h.t, err)
	return len(m)
}

func (h *ehost) keptImages() []string {
	h.t.Helper()
	names, err := readNames(h.d.abs(imagesDir))
	require.NoError(h.t, err)
	slices.Sort(names)
	return names
}

// A job that changed nothing has the image of the one before, with its numbers and its
// mount, and each goes without the other.
func TestErofsSameTreeSameImage(t *testing.T) {
	for _, m := range []erofs.Method{erofs.FileBacked, erofs.Loop} {
		t.Run(string(m), func(t *testing.T) {
			h := newErofsHostBy(t, Options{}, m)
			want := map[string]string{"d/a": "a", "big": large, "d/b": "b"}
			base, bm := h.unpack(nil, nil, want)
			v := h.prepare(base, nil)
			ino := inodeOf(t, filepath.Join(v.Target, "d/a"))
			require.NoError(t, h.e.Seal(t.Context(), v))
			l := h.image(&v.Layer, base, h.tree(&v.Layer, bm))
			require.True(t, h.sameFile(base, l))
			require.Equal(t, base.Key, l.Key)
			require.Equal(t, base.Data, l.Data)
			require.Equal(t, base.Devices, l.Devices)

			w := h.prepare(l, nil)
			require.Equal(t, ino, inodeOf(t, filepath.Join(w.Target, "d/a")))
			require.Equal(t, 1, h.mounted(), "one file is mounted once")
			h.put(w.Target, "d/c", "c")
			require.NoError(t, h.e.Seal(t.Context(), w))
			next := h.image(&w.Layer, l, h.tree(&w.Layer, bm))
			require.False(t, h.sameFile(l, next))
			require.NotEqual(t, l.Key, next.Key)

			require.NoError(t, h.e.Remove(t.Context(), l))
			h.shows(base, want)
			want["d/c"] = "c"
			h.shows(next, want)
			require.Empty(t, mustNames(t, h.d.abs(trashDir)))
		})
	}
}

func mustNames(t *testing.T, dir string) []string {
	t.Helper()
	names, err := readNames(dir)
	require.NoError(t, err)
	return names
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(path, &st))
	return st.Ino
}

// noTree fails when a merged tree is asked for.
func noTree(func(*snapshot.Entry) error) error {
	return errors.New("the tree was asked for, though there is an image")
}

// A merge that was shown before is shown without its tree, also when its view is gone,
// until a layer goes that it leads to.
func TestErofsMergeAgain(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.always = true
	base, bm := h.unpack(nil, nil, map[string]string{"d/f": "f", "d/g": "g"})
	other, om := h.job(base, bm, func(dir string) { h.put(dir, "other", "o") })
	ch := tree.Diff(bm, om)

	first := h.prepare(base, &Fanin{Changes: ChangesOf(ch), Tree: TreeOf(om)})
	key := first.MergeKey()
	require.NoError(t, checkKey(key))
	require.NoError(t, h.e.Discard(t.Context(), first)) // as before a retry

	again := &Fanin{Changes: ChangesOf(ch), Again: true, Key: key, Entries: len(om.Entries), Tree: noTree}
	hot := h.mounted()
	second := h.prepare(base, again)
	third := h.prepare(base, again)
	require.Equal(t, key, second.MergeKey())
	require.Equal(t, hot+1, h.mounted())
	require.True(t, h.sameFile(&second.Layer, &third.Layer))
	for _, v := range []*View{second, third} {
		require.Equal(t, "o", h.get(v.Target, "other"))
		require.Equal(t, "f", h.get(v.Target, "d/f"))
		require.Equal(t, []string{"views/" + string(other.ID)}, v.Layer.Data)
		require.Equal(t, base.Devices, v.Layer.Devices)
	}
	// What it becomes has the merge's image, if its job changed nothing.
	require.NoError(t, h.e.Seal(t.Context(), second))
	l := h.image(&second.Layer, base, h.tree(&second.Layer, om))
	require.True(t, h.sameFile(l, &third.Layer))
	require.NoError(t, h.e.Discard(t.Context(), third))
	h.shows(l, map[string]string{"other": "o", "d/f": "f"})

	// On another base the same files would have other numbers.
	still := h.prepare(base, nil)
	require.NoError(t, h.e.Seal(t.Context(), still))
	v := h.prepare(&still.Layer, &Fanin{Changes: ChangesOf(ch), Tree: TreeOf(om)})
	require.NotEqual(t, key, v.MergeKey())
	require.NoError(t, h.e.Discard(t.Context(), v))

	require.NoError(t, h.e.Remove(t.Context(), l))
	require.NoError(t, h.e.Remove(t.Context(), other))
	require.Nil(t, h.d.images.cache.find(key))
	for _, x := range h.d.images.cache.kept {
		require.NotContains(t, x.layer.Data, "views/"+string(other.ID))
	}
	_, err := h.d.Prepare(t.Context(), Spec{ID: newID(t), Base: base, Target: filepath.Join(h.slot, "x"), Fanin: again})
	require.ErrorContains(t, err, "the tree was asked for")
}

// When files move, an image that leads to the old places is not taken for one that
// leads to the new ones.
func TestErofsMovedFilesOtherImage(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, m := h.job(nil, nil, func(dir string) { h.put(dir, "d/a", "a") })
	l = h.image(l, nil, m)
	v := h.prepare(l, nil)
	require.NoError(t, h.e.Seal(t.Context(), v))
	same := h.image(&v.Layer, l, m)
	require.True(t, h.sameFile(l, same))

	place, to, err := h.e.Gather(t.Context(), l, TreeOf(m))
	require.NoError(t, err)
	moved, err := to.Manifest(0)
	require.NoError(t, err)
	gathered := h.image(place, l, moved)
	require.NotEqual(t, l.Key, gathered.Key)
	require.False(t, h.sameFile(gathered, same))
	led := h.image(same, same, moved)
	require.True(t, h.sameFile(gathered, led), "both trees lead to the bundle")
	require.Equal(t, []string{gatheredOf(l.ID)}, led.Devices)
	require.NoError(t, h.e.Prune(t.Context(), gathered, to))
	require.Empty(t, h.keptImages(), "some of them lead to files that are gone")
	h.shows(led, map[string]string{"d/a": "a"})
}

// What is damaged, or was exchanged meanwhile, is not taken.
func TestErofsCacheTakesOnlyWhatIsRight(t *testing.T) {
	h := newErofsHost(t, Options{})
	want := map[string]string{"a": "a"}
	l, m := h.unpack(nil, nil, want)
	other, _ := h.unpack(nil, nil, map[string]string{"b": "b"})
	kept := h.d.abs(keptName(l.Key))
	for name, damage := range map[string]func() error{
		"a bit":   func() error { return flip(kept, 1200) },
		"the key": func() error { return flip(kept, -imageSumBytes+20) },
		"cut":     func() error { return os.Truncate(kept, 10) },
		"empty":   func() error { return os.Truncate(kept, 0) },
		"gone":    func() error { return os.Remove(kept) },
		"another": func() error { return errors.Join(os.Remove(kept), os.Link(h.d.abs(other.Image), kept)) },
		"without it": func() error {
			return errors.Join(os.Remove(kept), os.WriteFile(kept, oldImage(t, h.d.abs(other.Image)), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, damage())
			l2 := h.image(l, l, m)
			h.shows(l2, want)
			require.Equal(t, l.Key, l2.Key)
			got, err := checkImage(kept)
			require.NoError(t, err)
			require.Equal(t, l.Key, got, "the good one is kept instead")
		})
	}
}

func flip(path string, at int64) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if at < 0 {
		at += int64(len(b))
	}
	b[at] ^= 1
	return os.WriteFile(path, b, 0o600)
}

// oldImage is an image as the version before wrote it.
func oldImage(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b = b[:len(b)-int(imageSumBytes)]
	sum, err := crcOf(strings.NewReader(string(b)), int64(len(b)))
	require.NoError(t, err)
	return binary.LittleEndian.AppendUint32(append(b, oldSumMagic...), sum)
}

// An image of the version before is shown, and stood on.
func TestErofsImageWithoutKey(t *testing.T) {
	h := newErofsHost(t, Options{})
	want := map[string]string{"a": "a", "big": large}
	l, m := h.unpack(nil, nil, want)
	h.d.images.cache.empty()
	old := oldImage(t, h.d.abs(l.Image))
	require.NoError(t, os.Remove(h.d.abs(l.Image)))
	require.NoError(t, os.WriteFile(h.d.abs(l.Image), old, 0o600))
	l.Key = ""
	h.shows(l, want)
	v := h.prepare(l, nil)
	require.NoError(t, h.e.Seal(t.Context(), v))
	same := h.image(&v.Layer, l, m)
	require.NotEmpty(t, same.Key)
	h.shows(same, want)
	require.NoError(t, flip(h.d.abs(l.Image), -1))
	_, err := h.e.Mount(t.Context(), l, filepath.Join(h.slot, "x"))
	var co *snapshot.CorruptError
	require.ErrorAs(t, err, &co)
}

// The cache has so many images, and so many bytes of them, and none at a start.
func TestErofsCacheIsBounded(t *testing.T) {
	h := newErofsHost(t, Options{})
	c := h.d.images.cache
	c.maxImages = 3
	var all []*Layer
	for i := range 6 {
		l, _ := h.unpack(nil, nil, map[string]string{"f": fmt.Sprint(i)})
		all = append(all, l)
		require.LessOrEqual(t, len(h.keptImages()), 3)
		require.NotNil(t, c.find(all[0].Key), "it is used all the time")
	}
	require.Nil(t, c.find(all[1].Key))
	require.NotNil(t, c.find(all[5].Key))
	c.maxBytes = c.bytes - 1
	h.unpack(nil, nil, map[string]string{"f": "one more"})
	require.LessOrEqual(t, c.bytes, c.maxBytes)
	c.maxBytes = 10
	l, _ := h.unpack(nil, nil, map[string]string{"f": "too large"})
	require.Nil(t, c.find(l.Key))
	h.e.DropCached()
	require.Empty(t, h.keptImages())
	require.Zero(t, c.bytes)

	c.maxBytes = mostKeptBytes
	l, _ = h.unpack(nil, nil, map[string]string{"f": "kept"})
	require.Equal(t, []string{l.Key}, h.keptImages())
	_, err := h.e.Reconcile(t.Context(), []snapshot.ID{l.ID}, nil)
	require.NoError(t, err)
	require.Empty(t, h.keptImages())
	h.shows(l, map[string]string{"f": "kept"})
}

// All that an image shows is in its key, and nothing else.
func TestErofsKey(t *testing.T) {
	h := newErofsHost(t, Options{})
	id := newID(t)
	at := h.d.abs(part(id, upperPrefix)) + "/"
	tree := func() *snapshot.Manifest {
		return &snapshot.Manifest{Entries: []snapshot.Entry{
			{Type: snapshot.TypeDir, Mode: 0o755},
			{Path: "f", Type: snapshot.TypeFile, Mode: 0o644, Size: 5, Source: at + "f", Xattrs: []snapshot.Xattr{{Name: "user.a", Value: []byte("b")}}},
			{Path: "l", Type: snapshot.TypeSymlink, Mode: 0o777, Target: "f"},
		}}
	}
	key := func(change func(root, f, l *snapshot.Entry)) string {
		m := tree()
		change(&m.Entries[0], &m.Entries[1], &m.Entries[2])
		g := h.d.newImaging(newID(t), TreeOf(m))
		odd, err := g.survey(t.Context())
		require.NoError(t, err)
		require.Empty(t, odd)
		return g.hash.digits()
	}
	plain := key(func(_, _, _ *snapshot.Entry) {})
	require.Equal(t, plain, key(func(_, f, _ *snapshot.Entry) { f.Chunks = []snapshot.Chunk{{Len: 5}} }))
	seen := map[string]bool{plain: true}
	for name, change := range map[string]func(root, f, l *snapshot.Entry){
		"root's mode":      func(r, _, _ *snapshot.Entry) { r.Mode = 0o700 },
		"root's time":      func(r, _, _ *snapshot.Entry) { r.MTime = -1 },
		"owner":            func(_, f, _ *snapshot.Entry) { f.UID = 1 },
		"group":            func(_, f, _ *snapshot.Entry) { f.GID = 1 },
		"nanosecond":       func(_, f, _ *snapshot.Entry) { f.MTime = 1 },
		"size":             func(_, f, _ *snapshot.Entry) { f.Size = 6 },
		"type":             func(_, _, l *snapshot.Entry) { l.Type, l.Target = snapshot.TypeFifo, "" },
		"target":           func(_, _, l *snapshot.Entry) { l.Target = "g" },
		"name":             func(_, _, l *snapshot.Entry) { l.Path = "m" },
		"attribute":        func(_, f, _ *snapshot.Entry) { f.Xattrs[0].Value = []byte("c") },
		"attribute's name": func(_, f, _ *snapshot.Entry) { f.Xattrs[0].Name = "user.b" },
		"no attribute":     func(_, f, _ *snapshot.Entry) { f.Xattrs = nil },
		"link":             func(_, f, _ *snapshot.Entry) { f.Link = "f" },
		"other file":       func(_, f, _ *snapshot.Entry) { f.Source = at + "g" },
		"other layer":      func(_, f, _ *snapshot.Entry) { f.Source = h.d.abs(part(newID(t), upperPrefix)) + "/f" },
		"bundle":           func(_, f, _ *snapshot.Entry) { f.Source, f.SourceAt = h.d.abs(bundleOf(id)), 512 },
		"further on":       func(_, f, _ *snapshot.Entry) { f.Source, f.SourceAt = h.d.abs(bundleOf(id)), 1024 },
		"gathered":         func(_, f, _ *snapshot.Entry) { f.Source, f.SourceAt = h.d.abs(gatheredOf(id)), 512 },
	} {
		k := key(change)
		require.False(t, seen[k], name)
		seen[k] = true
	}
}
