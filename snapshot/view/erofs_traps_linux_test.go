package view

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// deepFile writes a file whose path below dir has exactly n bytes, longer than a
// system call takes with dir before it, and returns the path.
func deepFile(t *testing.T, dir string, n int, text string) string {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	require.NoError(t, err)
	rel := ""
	for n-len(rel) > 250 {
		name := strings.Repeat("d", 120)
		if err := unix.Mkdirat(fd, name, 0o755); err != nil {
			require.ErrorIs(t, err, unix.EEXIST)
		}
		next, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		require.NoError(t, unix.Close(fd))
		fd, rel = next, rel+name+"/"
	}
	name := strings.Repeat("f", n-len(rel))
	f, err := unix.Openat(fd, name, unix.O_CREAT|unix.O_WRONLY, 0o644)
	require.NoError(t, err)
	_, err = unix.Write(f, []byte(text))
	require.NoError(t, err)
	require.NoError(t, unix.Close(f))
	require.NoError(t, unix.Close(fd))
	return rel + name
}

func deepRead(t *testing.T, dir, rel string) string {
	p, err := newPlacer(dir, false)
	require.NoError(t, err)
	defer p.close()
	f, err := p.open(rel, os.O_RDONLY)
	require.NoError(t, err)
	defer f.Close()
	b := make([]byte, 100)
	n, err := f.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

// A redirect takes whatever path the kernel takes; a file that is deeper still is
// copied. Overlay itself stops at 256 bytes.
func TestErofsDeepPaths(t *testing.T) {
	h := newErofsHost(t, Options{})
	const own = 1 + 1 + 26 + 1 // "/u<id>/"
	var paths []string
	l, m := h.job(nil, nil, func(dir string) {
		for _, n := range []int{200, 257, 1000, 3000, 4095 - own, 4096 - own, 4095} {
			paths = append(paths, deepFile(t, dir, n, fmt.Sprint("at ", n)))
		}
	})
	l = h.image(l, nil, m)
	v := h.prepare(l, nil)
	for _, p := range paths {
		require.Equal(t, fmt.Sprint("at ", len(p)), deepRead(t, v.Target, p))
	}
	copies, err := os.ReadDir(h.d.abs(part(l.ID, objectPrefix)))
	require.NoError(t, err)
	require.Len(t, copies, 2)
	h.image(l, nil, m)
	again, err := os.ReadDir(h.d.abs(part(l.ID, objectPrefix)))
	require.NoError(t, err)
	require.Len(t, again, 2, "a copy is made once")
	require.NoError(t, h.e.Discard(t.Context(), v))
}

// A mount has room for so many data directories only.
func TestErofsManyLayers(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.maxData = 3
	var l *Layer
	var m *snapshot.Manifest
	want := map[string]string{}
	for i := range 7 {
		l2, m2 := h.job(l, m, func(dir string) {
			for j := range i + 1 {
				p := fmt.Sprintf("job%d/%d", i, j)
				h.put(dir, p, p)
				want[p] = p
			}
		})
		l, m = h.image(l2, l, m2), m2
		require.LessOrEqual(t, len(l.Data), 4)
		h.shows(l, want)
	}
	// The same in a merge: too many for an image of the view, which has no place
	// for copies, so it gets a fix-up layer.
	h.d.images.always = true
	_, m2 := h.job(l, m, func(dir string) { h.put(dir, "other", "o") })
	v := h.prepare(l, &Fanin{Changes: ChangesOf(tree.Diff(m, m2)), Tree: TreeOf(m2)})
	require.NotEqual(t, part(v.ID, startPrefix), v.Layer.Image)
	require.Equal(t, "o", h.get(v.Target, "other"))
	require.NoError(t, h.e.Discard(t.Context(), v))
}

// A kernel that takes hundreds of data directories below an image.
func TestErofsManyDataDirectories(t *testing.T) {
	h := newErofsHost(t, Options{})
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}}}
	want := map[string]string{}
	for i := range mostData + 10 {
		id := newID(t)
		p := fmt.Sprintf("f%04d", i)
		h.put(h.d.abs(part(id, upperPrefix)), p, p)
		want[p] = p
		m.Entries = append(m.Entries, snapshot.Entry{
			Path: p, Type: snapshot.TypeFile, Mode: 0o644, Size: int64(len(p)), Source: filepath.Join(h.d.abs(part(id, upperPrefix)), p),
		})
	}
	l, _ := h.job(nil, nil, func(string) {})
	l = h.image(l, nil, m)
	require.Len(t, l.Data, mostData+1)
	h.shows(l, want)
	on, om := h.job(l, m, func(dir string) { h.put(dir, "f0000", "changed") })
	want["f0000"] = "changed"
	h.shows(on, want)
	h.shows(h.image(on, l, om), want)
}

// A tree has a directory of the name by which an image finds other layers' files.
func TestErofsNameInTheWay(t *testing.T) {
	h := newErofsHost(t, Options{})
	base, bm := h.unpack(nil, nil, map[string]string{"f": "base"})
	other, om := h.job(base, bm, func(dir string) {
		h.put(dir, "g", "the real one")
		h.put(dir, "h", "another")
	})
	trap := upperPrefix + string(other.ID)
	evil, em := h.job(base, bm, func(dir string) {
		h.put(dir, trap+"/g", "not at all!!")
		h.put(dir, trap+"/h", "evil...")
	})
	ch := tree.Diff(bm, om)
	merged, err := tree.Apply(em, ch)
	require.NoError(t, err)
	for form, l := range map[string]*Layer{"upper": evil, "image": h.image(evil, base, em)} {
		for way, f := range map[string]*Fanin{"fix-up": {Changes: ChangesOf(ch)}, "image": {Changes: ChangesOf(ch), Tree: TreeOf(merged)}} {
			h.d.images.always = f.Tree != nil
			v := h.prepare(l, f)
			require.Equal(t, "the real one", h.get(v.Target, "g"), "%s on %s", way, form)
			require.NoError(t, os.Chmod(filepath.Join(v.Target, "h"), 0o600))
			require.Equal(t, "another", h.get(v.Target, "h"), "%s on %s", way, form)
			require.Equal(t, "not at all!!", h.get(v.Target, trap+"/g"))
			require.NoError(t, h.e.Seal(t.Context(), v))
			vm := h.tree(&v.Layer, merged)
			h.shows(h.image(&v.Layer, l, vm), map[string]string{"g": "the real one", "h": "another", trap + "/h": "evil..."})
			require.NoError(t, h.e.Remove(t.Context(), &v.Layer))
		}
	}
}

// A merge that became a view's base keeps its image when the view's own is made:
// views that stand on the old form find it.
func TestErofsMergeThenImage(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.always = true
	base, bm := h.unpack(nil, nil, map[string]string{"d/f": "f", "d/g": "g"})
	_, om := h.job(base, bm, func(dir string) { h.put(dir, "other", "o") })
	v := h.prepare(base, &Fanin{Changes: ChangesOf(tree.Diff(bm, om)), Tree: TreeOf(om)})
	require.NoError(t, unix.Rename(filepath.Join(v.Target, "d"), filepath.Join(v.Target, "e")))
	require.NoError(t, os.Chmod(filepath.Join(v.Target, "e/f"), 0o600))
	require.NoError(t, h.e.Seal(t.Context(), v))
	vm := h.tree(&v.Layer, om)
	old := v.Layer
	want := map[string]string{"e/f": "f", "e/g": "g", "other": "o", "d/f": ""}
	h.shows(h.image(&v.Layer, base, vm), want)
	require.NoError(t, h.e.Close())
	h.shows(&old, want)
}

// Views outlive the mount of their image, of which only so many are kept.
func TestErofsHotImages(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.maxHot = 2
	hot := func() int {
		m, err := mountsAt(h.d.abs(mntDir))
		require.NoError(t, err)
		return len(m)
	}
	var views []*View
	var layers []*Layer
	for i := range 5 {
		l, _ := h.unpack(nil, nil, map[string]string{"f": fmt.Sprint("image ", i)})
		layers = append(layers, l)
		views = append(views, h.prepare(l, nil), h.prepare(l, nil))
		require.LessOrEqual(t, hot(), 2)
	}
	require.Equal(t, 2, hot())
	require.NoError(t, h.e.Close())
	require.Zero(t, hot())
	for i, v := range views {
		require.Equal(t, fmt.Sprint("image ", i/2), h.get(v.Target, "f"))
	}
	// The image file of a view may even go: the kernel holds it.
	require.NoError(t, h.e.Remove(t.Context(), layers[0]))
	require.Equal(t, "image 0", h.get(views[0].Target, "f"))
	for _, v := range views {
		require.NoError(t, h.e.Discard(t.Context(), v))
	}
	names, err := os.ReadDir(h.d.abs(mntDir))
	require.NoError(t, err)
	require.Empty(t, names)
}

func TestErofsManyAtOnce(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.maxHot = 2
	var layers []*Layer
	var trees []*snapshot.Manifest
	for i := range 4 {
		l, m := h.unpack(nil, nil, map[string]string{"f": fmt.Sprint("image ", i), "big": large})
		layers, trees = append(layers, l), append(trees, m)
	}
	var g errgroup.Group
	for w := range 8 {
		g.Go(func() error {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 30 {
				n := r.IntN(len(layers))
				if r.IntN(10) == 0 && w < len(layers) {
					if _, err := h.e.Image(context.Background(), layers[w], nil, trees[w]); err != nil {
						return err
					}
				}
				if r.IntN(10) == 0 {
					if err := h.e.Close(); err != nil {
						return err
					}
				}
				id := newID(t)
				v, err := h.e.Prepare(context.Background(), Spec{ID: id, Base: layers[n], Target: filepath.Join(h.slot, string(id))})
				if err != nil {
					return err
				}
				b, err := os.ReadFile(filepath.Join(v.Target, "f"))
				if err != nil || string(b) != fmt.Sprint("image ", n) {
					return fmt.Errorf("view of image %d: %q, %w", n, b, err)
				}
				if err := h.e.Discard(context.Background(), v); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
}

// The overlay driver does not show half of a layer.
func TestOverlayRefusesImages(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, _ := h.unpack(nil, nil, map[string]string{"f": "f"})
	bare, err := h.e.Unpack(t.Context(), newID(t), nil, nil, func(context.Context, WriteFunc) error { return nil }, nil)
	require.NoError(t, err)
	o, err := NewOverlay(h.root, Options{Owners: true})
	require.NoError(t, err)
	for _, c := range []struct {
		d Driver
		l *Layer
	}{{o, l}, {o, bare}, {h.e, bare}} {
		id := newID(t)
		_, err := c.d.Prepare(t.Context(), Spec{ID: id, Base: c.l, Target: filepath.Join(h.slot, "x")})
		require.ErrorContains(t, err, "image")
		require.NoDirExists(t, h.d.dir(id))
		_, err = c.d.Mount(t.Context(), c.l, filepath.Join(h.slot, "x"))
		require.ErrorContains(t, err, "image")
	}
	_, err = h.e.Changes(t.Context(), l, nil)
	require.ErrorIs(t, err, errPacked)
}

// A store of the overlay driver goes on with this one.
func TestErofsTakesOverlaysLayers(t *testing.T) {
	h := newErofsHost(t, Options{})
	od, err := NewOverlay(h.root, Options{Owners: true})
	require.NoError(t, err)
	ch := []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}},
		{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Mode: 0o644, Size: 3}},
	}
	l, err := od.Unpack(t.Context(), newID(t), nil, ch, func(_ context.Context, w WriteFunc) error { return w(1, 0, []byte("old")) }, nil)
	require.NoError(t, err)
	h.shows(l, map[string]string{"f": "old"})
	h.e.Locate(l, ch)
	require.FileExists(t, ch[1].Entry.Source)
	m, err := tree.Apply(nil, ch)
	require.NoError(t, err)
	h.shows(h.image(l, nil, m), map[string]string{"f": "old"})
}

// The kernel takes 255 bytes for one option: the longest root that is let in works.
func TestErofsLongRoot(t *testing.T) {
	needErofs(t)
	dir := t.TempDir()
	root := filepath.Join(dir, strings.Repeat("r", maxRootBytes-len(dir)-1))
	d, err := NewErofs(root, Options{Owners: true})
	require.NoError(t, err)
	e := d.(*Erofs)
	defer func() {
		_, err := e.Reconcile(context.Background(), nil, nil)
		require.NoError(t, err)
	}()
	h := &ehost{&host{t: t, d: e.Overlay, root: root, slot: filepath.Join(dir, "slots")}, e}
	e.images.count = 1_000_000_000
	l, m := h.unpack(nil, nil, map[string]string{"a": "a", "big": large})
	j, jm := h.job(l, m, func(dir string) { h.put(dir, "b", "b") })
	h.shows(h.image(j, l, jm), map[string]string{"a": "a", "b": "b", "big": large})
	_, err = NewErofs(root+"r", Options{})
	require.ErrorIs(t, err, ErrUnavailable)
}
