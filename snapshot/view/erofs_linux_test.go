package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// ehost is an erofs driver on a store of its own.
type ehost struct {
	*host
	e *Erofs
}

func needErofs(t testing.TB) {
	t.Helper()
	testenv.Require(t, testenv.Overlay)
	if p := probeErofs(t.TempDir()); !p.OK {
		if os.Getenv("ROOST_TEST_REQUIRE") == "all" {
			t.Fatal(p.Why)
		}
		t.Skip(p.Why)
	}
}

func newErofsHost(t testing.TB, o Options) *ehost { return newErofsHostBy(t, o, "") }

func newErofsHostBy(t testing.TB, o Options, m erofs.Method) *ehost {
	needErofs(t)
	dir := t.TempDir()
	o.Owners = true
	d, err := openErofs(filepath.Join(dir, "s"), o, m)
	require.NoError(t, err)
	e := d.(*Erofs)
	h := &ehost{&host{t: t, d: e.Overlay, root: filepath.Join(dir, "s"), slot: filepath.Join(dir, "slots")}, e}
	t.Cleanup(func() {
		_, err := d.Reconcile(context.Background(), nil, nil)
		require.NoError(t, err)
		m, err := mountsAt(dir)
		require.NoError(t, err)
		require.Empty(t, m, "mounts left")
	})
	return h
}

// image converts a layer.
func (h *ehost) image(l, base *Layer, m *snapshot.Manifest) *Layer {
	h.t.Helper()
	out, err := h.e.Image(h.t.Context(), l, base, m)
	require.NoError(h.t, err)
	return out
}

// unpack brings files, by path, and returns the layer and its tree.
func (h *ehost) unpack(base *Layer, from *snapshot.Manifest, files map[string]string) (*Layer, *snapshot.Manifest) {
	h.t.Helper()
	var ch []snapshot.Change
	dirs := map[string]bool{"": from != nil}
	add := func(e snapshot.Entry) { ch = append(ch, snapshot.Change{Entry: e}) }
	for p := range files {
		for d := filepath.Dir(p); ; d = filepath.Dir(d) {
			if d == "." {
				d = ""
			}
			if !dirs[d] {
				dirs[d] = true
				add(snapshot.Entry{Path: d, Type: snapshot.TypeDir, Mode: 0o755})
			}
			if d == "" {
				break
			}
		}
		add(snapshot.Entry{Path: p, Type: snapshot.TypeFile, Mode: 0o644, Size: int64(len(files[p]))})
	}
	sortChanges(ch)
	l, err := h.e.Unpack(h.t.Context(), newID(h.t), base, ch, func(_ context.Context, write WriteFunc) error {
		for i := range ch {
			if e := &ch[i].Entry; e.Type == snapshot.TypeFile {
				if err := write(i, 0, []byte(files[e.Path])); err != nil {
					return err
				}
			}
		}
		return nil
	}, nil)
	require.NoError(h.t, err)
	h.e.Locate(l, ch)
	m, err := tree.Apply(from, ch)
	require.NoError(h.t, err)
	return h.image(l, base, m), m
}

func sortChanges(ch []snapshot.Change) {
	for i := 1; i < len(ch); i++ {
		for j := i; j > 0 && snapshot.ComparePaths(ch[j].Entry.Path, ch[j-1].Entry.Path) < 0; j-- {
			ch[j], ch[j-1] = ch[j-1], ch[j]
		}
	}
}

// shows checks what a view of l has at some paths; "" is nothing there.
func (h *ehost) shows(l *Layer, want map[string]string) {
	h.t.Helper()
	at := filepath.Join(filepath.Dir(h.root), "look")
	c, err := h.e.Mount(h.t.Context(), l, at)
	require.NoError(h.t, err)
	defer func() { require.NoError(h.t, c.Close()) }()
	for p, text := range want {
		if text == "" {
			require.NoFileExists(h.t, filepath.Join(at, p))
			continue
		}
		require.True(h.t, text == h.get(at, p), "%s", p)
	}
}

var large = strings.Repeat("large content of an object\n", 100_000)

// A layer that came, a job on it, its image, and a job on that.
func TestErofsLife(t *testing.T) {
	for _, m := range []erofs.Method{erofs.FileBacked, erofs.Loop} {
		t.Run(string(m), func(t *testing.T) {
			h := newErofsHostBy(t, Options{}, m)
			l, lm := h.unpack(nil, nil, map[string]string{"d/a": "a", "d/b": strings.Repeat("b", 5000), "big": large, "empty": "", "gone": "x"})
			require.Empty(t, l.Lowers)
			require.Equal(t, []string{bundleOf(l.ID)}, l.Devices)
			require.Equal(t, []string{"views/" + string(l.ID)}, l.Data)
			h.shows(l, map[string]string{"d/a": "a", "d/b": strings.Repeat("b", 5000), "big": large})

			j, jm := h.job(l, lm, func(dir string) {
				h.put(dir, "d/a", "changed")
				h.put(dir, "new", large+"new")
				require.NoError(t, os.Chmod(filepath.Join(dir, "big"), 0o600))
				require.NoError(t, unix.Rename(filepath.Join(dir, "d"), filepath.Join(dir, "e")))
				require.NoError(t, os.Remove(filepath.Join(dir, "gone")))
			})
			want := map[string]string{"e/a": "changed", "e/b": strings.Repeat("b", 5000), "big": large, "new": large + "new", "gone": "", "d/a": ""}
			require.Equal(t, l.Image, j.Image)
			h.shows(j, want)
			on := h.prepare(j, nil) // goes on with what j was
			i := h.image(j, l, jm)
			require.Empty(t, i.Lowers)
			require.Len(t, i.Data, 2)
			h.shows(i, want)
			require.Equal(t, large, h.get(on.Target, "big"))
			h.put(on.Target, "e/b", "on the old form")
			require.NoError(t, h.e.Seal(t.Context(), on))
			om := h.tree(&on.Layer, jm)
			want["e/b"] = "on the old form"
			h.shows(&on.Layer, want)
			h.shows(h.image(&on.Layer, i, om), want)
		})
	}
}

// A merge whose other side lies in a bundle is shown by an image.
func TestErofsFanin(t *testing.T) {
	h := newErofsHost(t, Options{})
	base, bm := h.unpack(nil, nil, map[string]string{"base": "base", "big": large})
	one, om := h.job(base, bm, func(dir string) { h.put(dir, "one", "1") })
	_, tm := h.unpack(base, bm, map[string]string{"two": "2", "more/two": large + "2"})
	ch := tree.Diff(bm, tm)
	merged, err := tree.Apply(om, ch)
	require.NoError(t, err)
	want := map[string]string{"base": "base", "big": large, "one": "1", "two": "2", "more/two": large + "2"}
	for name, f := range map[string]*Fanin{
		"image": {Changes: ChangesOf(ch), Tree: TreeOf(merged)}, "fix-up, with copies": {Changes: ChangesOf(ch)},
	} {
		h.d.images.always = f.Tree != nil
		for form, l := range map[string]*Layer{"upper": one, "image": h.image(one, base, om)} {
			t.Run(name+" on "+form, func(t *testing.T) {
				v := h.prepare(l, f)
				require.Equal(t, f.Tree != nil, v.Layer.Image == part(v.ID, startPrefix))
				for p, text := range want {
					require.True(t, text == h.get(v.Target, p), p)
				}
				h.put(v.Target, "more/job", "j")
				require.NoError(t, h.e.Seal(t.Context(), v))
				vm := h.tree(&v.Layer, merged)
				want := map[string]string{"more/job": "j", "more/two": large + "2", "base": "base"}
				h.shows(&v.Layer, want)
				h.shows(h.image(&v.Layer, l, vm), want)
				require.NoError(t, h.e.Remove(t.Context(), &v.Layer))
			})
		}
	}
}

// What tools compare of a file that nobody changed stays as it was from image to
// image, also through a merge that is shown by one.
func TestErofsKeepsNumbers(t *testing.T) {
	h := newErofsHost(t, Options{})
	h.d.images.always = true
	files := map[string]string{"big": large}
	for i := range 200 {
		files[fmt.Sprintf("d%d/f%d", i%7, i)] = fmt.Sprint(i)
	}
	l, m := h.unpack(nil, nil, files)
	look := func(v *View) map[string]unix.Stat_t {
		out := map[string]unix.Stat_t{}
		for p := range files {
			var st unix.Stat_t
			require.NoError(t, unix.Lstat(filepath.Join(v.Target, p), &st))
			st.Dev, st.Atim, st.Blocks = 0, unix.Timespec{}, 0
			out[p] = st
		}
		return out
	}
	v := h.prepare(l, nil)
	want := look(v)
	require.NoError(t, h.e.Discard(t.Context(), v))
	delete(files, "d3/f3")

	_, om := h.unpack(l, m, map[string]string{"a-new/one": "1", "zz": "2"})
	j, jm := h.job(l, m, func(dir string) {
		h.put(dir, "a-first", "x")
		h.put(dir, "d3/f3", "changed")
	})
	j = h.image(j, l, jm)
	ch := tree.Diff(m, om)
	merged, err := tree.Apply(jm, ch)
	require.NoError(t, err)
	both := h.prepare(j, &Fanin{Changes: ChangesOf(ch), Tree: TreeOf(merged)})
	saw := look(both)
	h.put(both.Target, "d3/more", "y")
	require.NoError(t, h.e.Seal(t.Context(), both))
	last := h.prepare(h.image(&both.Layer, j, h.tree(&both.Layer, merged)), nil)
	for name, got := range map[string]map[string]unix.Stat_t{"a merge": saw, "its image": look(last)} {
		for p := range files {
			require.Equal(t, want[p], got[p], "%s in %s", p, name)
		}
	}
	require.NoError(t, h.e.Discard(t.Context(), last))
}

// A merge is shown in the cheaper way.
func TestErofsFaninWay(t *testing.T) {
	h := newErofsHost(t, Options{})
	entries := func(n int, at int64) (out []snapshot.Change) {
		for range n {
			out = append(out, snapshot.Change{Entry: snapshot.Entry{Path: "p", Type: snapshot.TypeFile, Size: 1000, SourceAt: at}})
		}
		return out
	}
	tall := &Layer{}
	for range 200 {
		tall.Lowers = append(tall.Lowers, "x")
	}
	for _, c := range []struct {
		tree, changes int
		at            int64
		base          *Layer
		want          bool
	}{
		{1000, 10, 0, nil, false},
		{1000, 200, 0, nil, true},
		{100_000, 1000, 0, nil, false},
		{100_000, 1000, 512, nil, false},
		{100_000, 3000, 512, nil, true},
		{1000, 40, 0, nil, false},
		{1000, 40, 512, nil, true},
		{100_000, 1, 0, tall, true},
	} {
		f := &Fanin{Changes: ChangesOf(entries(c.changes, c.at)), Tree: noTree, Entries: c.tree}
		image, err := h.d.imageFanin(Spec{Base: c.base, Fanin: f})
		require.NoError(t, err)
		require.Equal(t, c.want, image, "%+v", c)
		f.Tree = nil
		image, err = h.d.imageFanin(Spec{Base: c.base, Fanin: f})
		require.NoError(t, err)
		require.False(t, image)
	}
}

func TestBundleHasNoHoles(t *testing.T) {
	h := newErofsHost(t, Options{})
	ch := []snapshot.Change{
		{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}},
		{Entry: snapshot.Entry{Path: "a", Type: snapshot.TypeFile, Mode: 0o644, Size: 900_000}},
		{Entry: snapshot.Entry{Path: "b", Type: snapshot.TypeFile, Mode: 0o644, Size: 70_000}},
	}
	l, err := h.e.Unpack(t.Context(), newID(t), nil, ch, func(_ context.Context, write WriteFunc) error {
		return write(1, 500_000, []byte("only this"))
	}, nil)
	require.NoError(t, err)
	h.e.Locate(l, ch)
	m, err := tree.Apply(nil, ch)
	require.NoError(t, err)
	text := make([]byte, 900_000)
	copy(text[500_000:], "only this")
	h.shows(h.image(l, nil, m), map[string]string{"a": string(text), "b": string(make([]byte, 70_000))})
}

func TestBlockSet(t *testing.T) {
	const bytes = 300 * bundleBlock
	for _, c := range []struct{ runs, want [][2]int64 }{
		{nil, [][2]int64{{0, 300}}},
		{[][2]int64{{0, 300}}, nil},
		{[][2]int64{{0, 1}, {299, 1}}, [][2]int64{{1, 298}}},
		{[][2]int64{{63, 2}, {128, 64}}, [][2]int64{{0, 63}, {65, 63}, {192, 108}}},
	} {
		s := newBlockSet(bytes)
		for _, r := range c.runs {
			s.add(r[0]*bundleBlock+1, r[1]*bundleBlock-1)
		}
		var got [][2]int64
		require.NoError(t, s.absent(bytes, func(off, n int64) error {
			got = append(got, [2]int64{off / bundleBlock, n / bundleBlock})
			return nil
		}))
		require.Equal(t, c.want, got, "%v", c.runs)
	}
}

var _ Imager = (*Erofs)(nil)
