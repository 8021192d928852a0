//go:build linux

package viewtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// Suite is one driver on one file system.
type Suite struct {
	Open Open
	// Dir is where the stores are made: a directory on the file system that is
	// meant. "" is the test's own.
	Dir string
	// Images says that every sealed layer becomes an image at once, as in a store,
	// and that a merge comes with its tree. For an Imager only. Without it views
	// stand on what jobs left; what is unpacked is an image in either case.
	Images bool
}

// Run is the whole suite for one driver.
func Run(t *testing.T, open Open) { Suite{Open: open}.Run(t) }

// Run runs all of it. What the driver says of each scenario is compared with what
// the suites before it in this process were told, byte for byte.
func (s Suite) Run(t *testing.T) {
	for _, c := range slices.Concat(scenarios, writes) {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			h := newHouse(t, s)
			got := c.run(h)
			compare(t, c, got)
			h.arrive(got[len(got)-1])
		})
	}
	for name, f := range map[string]func(*testing.T, Suite){
		"an entry that can't be kept":       testUnsupported,
		"discard":                           testDiscard,
		"crash with open views":             testCrash,
		"errors leave nothing":              testErrors,
		"unpack refuses what leads outside": testHostile,
		"tools find nothing to do":          testTools,
	} {
		t.Run(name, func(t *testing.T) { f(t, s) })
	}
}

// temp is t.TempDir on the suite's file system.
func (s Suite) temp(t testing.TB) string {
	if s.Dir == "" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(s.Dir, "suite-") //nolint:usetesting // t.TempDir is on another file system
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

// first has what the first suite of this process was told of each scenario.
var first = struct {
	sync.Mutex // guards the map
	m          map[string]told
}{m: map[string]told{}}

type told struct {
	by    string
	trees [][]string
}

// compare checks that every driver tells the same of the same jobs.
func compare(t *testing.T, c scenario, got []*snap) {
	t.Helper()
	now := told{by: t.Name()}
	for _, s := range got {
		now.trees = append(now.trees, lines(s.tree))
	}
	first.Lock()
	was, ok := first.m[c.name]
	if !ok {
		first.m[c.name] = now
	}
	first.Unlock()
	if !ok {
		return
	}
	require.Len(t, now.trees, len(was.trees))
	for i := range now.trees {
		equal(t, was.trees[i], now.trees[i], fmt.Sprintf("snapshot %d is another than that of %s", i, was.by))
	}
}

func testUnsupported(t *testing.T, s Suite) {
	h := newHouse(t, s)
	for name, make := range map[string]func(p string) error{
		"character device": func(p string) error { return mknod(p, charDevice, 1<<8|3) },
		"block device":     func(p string) error { return mknod(p, blockDevice, 7<<8) },
		"foreign attribute": func(p string) error {
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return setxattr(p, "trusted.foo", []byte("x"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			v, from, _ := h.prepare(nil, nil)
			require.NoError(t, make(filepath.Join(v.Target, "odd")))
			require.NoError(t, h.d.Seal(h.ctx(), v))
			_, err := h.d.Changes(h.ctx(), &v.Layer, from)
			var un *snapshot.UnsupportedError
			require.ErrorAs(t, err, &un)
			require.Equal(t, "odd", un.Path)
			require.NoError(t, h.d.Remove(h.ctx(), &v.Layer))
		})
	}
}

func testDiscard(t *testing.T, s Suite) {
	h := newHouse(t, s)
	a := h.small()
	v, _, _ := h.prepare(a, nil)
	h.write(v.Target, "gone/soon", "x")
	h.rm(v.Target, "a")
	require.NoError(t, h.d.Discard(h.ctx(), v))
	require.NoError(t, h.d.Discard(h.ctx(), v), "Discard is idempotent")
	require.NoFileExists(t, filepath.Join(v.Target, "gone", "soon"))
	require.NoDirExists(t, filepath.Join(h.root, "views", string(v.ID)))
	require.NoError(t, h.d.Discard(h.ctx(), &view.View{ID: h.id(), Target: filepath.Join(h.root, "no", "where")}))
	h.mounted(h.d, a.layer, a.tree)
	require.NoError(t, h.d.Remove(h.ctx(), a.layer))
	require.NoError(t, h.d.Remove(h.ctx(), a.layer), "Remove is idempotent")
}

// testCrash drops the driver with views open and opens the store again.
func testCrash(t *testing.T, s Suite) {
	h := newHouse(t, s)
	a := h.small()
	known, from, _ := h.prepare(a, nil)
	unknown, _, _ := h.prepare(a, nil)
	h.write(known.Target, "a/kept", "k")
	h.write(unknown.Target, "a/lost", "l")

	shown := filepath.Join(filepath.Dir(h.root), "shown") // and one layer mounted
	_, err := h.d.Mount(h.ctx(), a.layer, shown)
	require.NoError(t, err)

	h.d = h.open(t, h.root)
	report, err := h.d.Reconcile(h.ctx(), []snapshot.ID{a.id}, []snapshot.ID{known.ID})
	require.NoError(t, err)
	require.NotEmpty(t, report)
	require.Empty(t, h.views())
	require.NoFileExists(t, filepath.Join(unknown.Target, "a", "lost"))
	require.NoDirExists(t, filepath.Join(h.root, "views", string(unknown.ID)))

	require.NoError(t, h.d.Seal(h.ctx(), known))
	changes, err := h.d.Changes(h.ctx(), &known.Layer, from)
	require.NoError(t, err)
	got, err := tree.Apply(from, changes)
	require.NoError(t, err)
	_, ok := got.Find("a/kept")
	require.True(t, ok)
	h.mounted(h.d, &known.Layer, got)
	h.mounted(h.d, a.layer, a.tree)

	report, err = h.d.Reconcile(h.ctx(), []snapshot.ID{a.id, known.ID}, nil)
	require.NoError(t, err)
	require.Empty(t, report, "the second time there is nothing to clean")
}

func testErrors(t *testing.T, s Suite) {
	h := newHouse(t, s)
	a := h.small()
	id := h.id()
	full := filepath.Join(t.TempDir(), "full")
	require.NoError(t, os.MkdirAll(filepath.Join(full, "x"), 0o755))
	// What a job of another slot can leave where the next view is to appear.
	elsewhere, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(elsewhere, link))
	bad := []view.Spec{
		{ID: id, Target: link},
		{ID: id, Target: link + "/"},
		{ID: "../../etc", Target: h.target(id)},
		{ID: id, Target: "relative"},
		{ID: id, Target: full},
		{ID: id, Target: h.target(id), Base: &view.Layer{ID: a.id, Dir: "views/../../x"}},
		{ID: id, Target: h.target(id), Base: &view.Layer{ID: a.id, Dir: a.layer.Dir, Lowers: []string{"/etc"}}},
		{ID: id, Target: h.target(id), Base: &view.Layer{ID: a.id, Dir: a.layer.Dir, Lowers: a.layer.Lowers, Data: []string{"views/.."}}},
		{ID: id, Target: h.target(id), Base: &view.Layer{ID: a.id, Dir: a.layer.Dir, Lowers: a.layer.Lowers, Image: "views/../../x"}},
		{ID: id, Target: h.target(id), Base: &view.Layer{ID: a.id, Dir: a.layer.Dir, Lowers: a.layer.Lowers, Devices: []string{a.layer.Dir}}},
		{ID: id, Target: h.target(id), Base: a.layer, Fanin: &view.Fanin{Changes: view.ChangesOf([]snapshot.Change{
			{Entry: snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: 3, Source: filepath.Join(h.root, "gone")}},
		})}},
		{ID: id, Target: h.target(id), Base: a.layer, Fanin: &view.Fanin{Changes: view.ChangesOf([]snapshot.Change{
			{Entry: snapshot.Entry{Path: "no/such/dir", Type: snapshot.TypeDir, Mode: 0o755}},
		})}},
	}
	for _, s := range bad {
		_, err := h.d.Prepare(h.ctx(), s)
		require.Error(t, err, "%+v", s)
		require.NoDirExists(t, filepath.Join(h.root, "views", string(id)))
		require.Empty(t, h.views())
	}
	v, _, _ := h.prepare(a, nil)
	_, err := h.d.Prepare(h.ctx(), view.Spec{ID: v.ID, Base: a.layer, Target: h.target(h.id())})
	require.Error(t, err, "an id is used once")
	h.read(v.Target, "a/one", "first")
	require.NoError(t, h.d.Discard(h.ctx(), v))
}
