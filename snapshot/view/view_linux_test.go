package view_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/containers"
	"github.com/roost-ci/roost/snapshot/view/viewtest"
)

type opener func(string, view.Options) (view.Driver, error)

func openWith(f opener, o view.Options) viewtest.Open {
	return func(t testing.TB, root string) view.Driver {
		o.Owners = true
		d, err := f(root, o)
		require.NoError(t, err)
		return d
	}
}

// newImaging opens the erofs driver so that it shows every merge by an image.
func newImaging(root string, o view.Options) (view.Driver, error) {
	d, err := view.NewErofs(root, o)
	if err == nil {
		view.AlwaysImage(d)
	}
	return d, err
}

// rungs are the drivers, with the options that make them work in another way, on
// the file systems on which they do.
var rungs = []struct {
	fs, name string
	open     opener
	o        view.Options
	images   bool
}{
	{testenv.Ext4, "overlay", view.NewOverlay, view.Options{}, false},
	{testenv.Ext4, "overlay before Linux 6.8", view.NewOverlay, view.Options{NoDataDirs: true}, false},
	{testenv.Ext4, "overlay flattened at almost every step", view.NewOverlay, view.Options{MaxLowers: 3}, false},
	{testenv.Ext4, "erofs", view.NewErofs, view.Options{}, false},
	{testenv.Ext4, "erofs, an image of every layer", newImaging, view.Options{}, true},
	{testenv.Ext4, "erofs before Linux 6.12", view.NewErofsOnLoops, view.Options{}, true},
	{testenv.Ext4, "erofs flattened at almost every step", view.NewErofs, view.Options{MaxLowers: 3}, false},
	{testenv.Ext4, "copy", view.NewCopy, view.Options{}, false},
	{testenv.Ext4, "containers-storage flattened now and then", containers.Open, view.Options{MaxLowers: 4}, false},
	{testenv.XFS, "overlay", view.NewOverlay, view.Options{}, false},
	{testenv.XFS, "erofs, an image of every layer", newImaging, view.Options{}, true},
	{testenv.XFS, "reflink", view.NewReflink, view.Options{}, false},
	{testenv.Btrfs, "reflink", view.NewReflink, view.Options{}, false},
	{testenv.Btrfs, "erofs, an image of every layer", newImaging, view.Options{}, true},
}

// TestRungs runs the suite for all of them, on fresh file systems: besides what
// they differ in, one that has seen many deletions can be ten times slower.
func TestRungs(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	for _, fs := range []string{testenv.Ext4, testenv.XFS, testenv.Btrfs} {
		t.Run(fs, func(t *testing.T) {
			t.Parallel()
			dir := testenv.Disk(t, fs, 1<<30)
			for _, r := range rungs {
				if r.fs == fs && (!testing.Short() || fs == testenv.Ext4 && !r.o.NoDataDirs && r.o.MaxLowers == 0) {
					t.Run(r.name, func(t *testing.T) {
						viewtest.Suite{Open: openWith(r.open, r.o), Dir: dir, Images: r.images}.Run(t)
					})
				}
			}
		})
	}
}

// TestNoSilentCopy: who asks for clones where there are none is told so.
func TestNoSilentCopy(t *testing.T) {
	dir := testenv.Disk(t, testenv.Ext4, 64<<20)
	_, err := view.NewReflink(dir, view.Options{})
	require.ErrorIs(t, err, view.ErrUnavailable)
	require.ErrorContains(t, err, "ext4 does not clone files")
	for _, p := range view.Probe(dir) {
		if p.Name == view.NameReflink {
			require.False(t, p.OK)
			require.Contains(t, p.Fix, "xfs-loop")
		}
	}
}

// TestReconcileKeepsTheStore: a store can lie on a file system of its own, mounted
// at its root. That is no leftover.
func TestReconcileKeepsTheStore(t *testing.T) {
	dir := testenv.Disk(t, testenv.XFS, 512<<20)
	for _, name := range []string{view.NameOverlay, view.NameErofs, view.NameReflink, view.NameCopy, containers.Name} {
		t.Run(name, func(t *testing.T) {
			d, err := view.Open(name, dir, view.Options{Owners: true, ReconcileWait: time.Millisecond})
			require.NoError(t, err)
			report, err := d.Reconcile(t.Context(), nil, nil)
			require.NoError(t, err)
			require.Empty(t, report)
			require.DirExists(t, filepath.Join(dir, "views"))
		})
	}
}

// TestReconcileKeepsSlots: the directory of slots is a shared mount of itself below the
// root. It stays, with a view in it that is taken over; another view goes.
func TestReconcileKeepsSlots(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	for _, name := range []string{view.NameOverlay, view.NameErofs} { // who copies can't move a tree into a mount
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			slots := filepath.Join(root, "slots")
			require.NoError(t, os.Mkdir(slots, 0o755))
			require.NoError(t, unix.Mount(slots, slots, "", unix.MS_BIND, ""))
			require.NoError(t, unix.Mount("", slots, "", unix.MS_SHARED, ""))
			t.Cleanup(func() { require.NoError(t, unix.Unmount(slots, 0)) })
			open := func() view.Driver {
				d, err := view.Open(name, root, view.Options{Owners: true, ReconcileWait: time.Millisecond})
				require.NoError(t, err)
				return d
			}
			d := open()
			var made []*view.View
			for _, n := range []string{"1", "2"} {
				id := snapshot.ID(strings.Repeat(n, 26))
				v, err := d.Prepare(t.Context(), view.Spec{ID: id, Target: filepath.Join(slots, n, "v")})
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(v.Target, "f"), nil, 0o644))
				made = append(made, v)
			}
			d = open()
			require.NoError(t, d.(view.Resumer).Resume(t.Context(), made[0]))
			_, err := d.Reconcile(t.Context(), nil, []snapshot.ID{made[0].ID, made[1].ID})
			require.NoError(t, err)
			require.FileExists(t, filepath.Join(made[0].Target, "f"))
			require.NoFileExists(t, filepath.Join(made[1].Target, "f"))
			b, err := os.ReadFile("/proc/self/mountinfo")
			require.NoError(t, err)
			require.Equal(t, 1, strings.Count(string(b), " "+slots+" "))
			require.NoError(t, d.Seal(t.Context(), made[0]))
			require.NoError(t, d.Discard(t.Context(), made[1]))
		})
	}
}

// TestLinks: groups of hard links, in every way that they can come about.
func TestLinks(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	lines := 6
	if n, err := strconv.Atoi(os.Getenv("ROOST_LINES")); err == nil {
		lines = n
	}
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("ROOST_SEED"), 10, 64); err == nil {
		seed = n
	}
	t.Logf("ROOST_SEED=%d", seed)
	dirs := map[string]string{}
	for _, d := range []struct {
		fs, name string
		open     opener
		images   bool
		exact    bool
	}{
		{testenv.Ext4, "copy", view.NewCopy, false, true},
		{testenv.Ext4, "overlay", view.NewOverlay, false, false},
		{testenv.Ext4, "erofs", view.NewErofs, false, false},
		{testenv.Ext4, "erofs, an image of every layer", newImaging, true, false},
		{testenv.XFS, "reflink", view.NewReflink, false, true},
	} {
		if dirs[d.fs] == "" {
			dirs[d.fs] = testenv.Disk(t, d.fs, 1<<30)
		}
		t.Run(d.name, func(t *testing.T) {
			viewtest.Suite{Open: openWith(d.open, view.Options{}), Dir: dirs[d.fs], Images: d.images}.Links(t, seed, lines, d.exact)
		})
	}
}
