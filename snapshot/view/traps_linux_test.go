package view

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// host is an overlay driver on a store of its own.
type host struct {
	t    testing.TB
	d    *Overlay
	root string
	slot string
}

func newHost(t testing.TB, o Options) *host {
	testenv.Require(t, testenv.Overlay)
	dir := t.TempDir()
	o.Owners = true
	d, err := NewOverlay(filepath.Join(dir, "s"), o)
	require.NoError(t, err)
	h := &host{t: t, d: d.(*Overlay), root: filepath.Join(dir, "s"), slot: filepath.Join(dir, "slots")}
	t.Cleanup(func() {
		_, err := d.Reconcile(context.Background(), nil, nil)
		require.NoError(t, err)
		m, err := mountsAt(dir)
		require.NoError(t, err)
		require.Empty(t, m, "mounts left")
	})
	return h
}

func newID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

func (h *host) prepare(base *Layer, f *Fanin) *View {
	h.t.Helper()
	id := newID(h.t)
	v, err := h.d.Prepare(h.t.Context(), Spec{ID: id, Base: base, Fanin: f, Target: filepath.Join(h.slot, string(id))})
	require.NoError(h.t, err)
	return v
}

// job returns the sealed layer and its tree.
func (h *host) job(base *Layer, from *snapshot.Manifest, f func(dir string)) (*Layer, *snapshot.Manifest) {
	h.t.Helper()
	v := h.prepare(base, nil)
	f(v.Target)
	require.NoError(h.t, h.d.Seal(h.t.Context(), v))
	return &v.Layer, h.tree(&v.Layer, from)
}

func (h *host) tree(l *Layer, from *snapshot.Manifest) *snapshot.Manifest {
	h.t.Helper()
	ch, err := h.d.Changes(h.t.Context(), l, from)
	require.NoError(h.t, err)
	m, err := tree.Apply(from, ch)
	require.NoError(h.t, err)
	return m
}

func (h *host) put(dir, name, text string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
	require.NoError(h.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

func (h *host) get(dir, name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(h.t, err)
	return string(b)
}

func options(t *testing.T, target string) (super, mount string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[4] == target {
			return f[len(f)-1], f[5]
		}
	}
	t.Fatalf("%s is not mounted", target)
	return "", ""
}

func TestMountOptions(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		h := newHost(t, Options{NoDataDirs: legacy})
		l, _ := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
		v := h.prepare(l, nil)
		super, mount := options(t, v.Target)
		for _, o := range []string{"volatile", "redirect_dir=on", "metacopy=on"} { // newer kernels say fsync=volatile
			require.Regexp(t, "[,=]"+o+"(,|$)", super)
		}
		require.NotContains(t, super, "userxattr")
		require.NotContains(t, super, "index=on")
		require.NotContains(t, super, "xino=on")
		require.Contains(t, mount, "nosuid")
		require.Contains(t, mount, "nodev")
		require.NoError(t, h.d.Discard(t.Context(), v))
	}
}

// TestMountFollowsNoLink: a link that a job puts in the place of a target, however late,
// has nothing mounted where it leads to.
func TestMountFollowsNoLink(t *testing.T) {
	for _, legacy := range []bool{false, true} {
		h := newHost(t, Options{NoDataDirs: legacy})
		l, _ := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
		elsewhere, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(elsewhere, link))
		s := stack{lowers: []string{filepath.Join(h.root, l.Dir), filepath.Join(h.root, emptyDir)}}
		require.Error(t, mountStack(s, link, legacy))
		left, err := os.ReadDir(elsewhere)
		require.NoError(t, err)
		require.Empty(t, left)
		require.NoError(t, mountStack(s, elsewhere, legacy))
		require.NoError(t, unix.Unmount(elsewhere, unix.UMOUNT_NOFOLLOW))
	}
}

// TestSealWaitsForWriters: a view that somebody can still write to can't be
// sealed, and goes on as before.
func TestSealWaitsForWriters(t *testing.T) {
	slept := 0
	h := newHost(t, Options{Sleep: func(context.Context, time.Duration) error { slept++; return nil }})
	v := h.prepare(nil, nil)
	f, err := os.Create(filepath.Join(v.Target, "log"))
	require.NoError(t, err)
	err = h.d.Seal(t.Context(), v)
	require.ErrorIs(t, err, snapshot.ErrBusy)
	require.Positive(t, slept)
	_, err = f.WriteString("still writing")
	require.NoError(t, err)
	h.put(v.Target, "another", "file")
	require.NoError(t, f.Close())
	require.NoError(t, h.d.Seal(t.Context(), v))
	m := h.tree(&v.Layer, nil)
	e, ok := m.Find("log")
	require.True(t, ok)
	require.Equal(t, int64(13), e.Size)
}

// TestSealWithReader: a reader does not let go of the mount either; the view is
// writable again afterwards.
func TestSealWithReader(t *testing.T) {
	h := newHost(t, Options{SealWait: 10 * time.Millisecond})
	v := h.prepare(nil, nil)
	h.put(v.Target, "f", "x")
	f, err := os.Open(filepath.Join(v.Target, "f"))
	require.NoError(t, err)
	require.ErrorIs(t, h.d.Seal(t.Context(), v), snapshot.ErrBusy)
	h.put(v.Target, "f", "y")
	require.NoError(t, f.Close())
	require.NoError(t, h.d.Seal(t.Context(), v))
}

// TestSealSeesOtherNamespaces: a container that has the view in a mount namespace
// of its own goes on writing after a plain unmount here. The remount tells.
func TestSealSeesOtherNamespaces(t *testing.T) {
	testenv.Require(t, testenv.Bash)
	h := newHost(t, Options{SealWait: 10 * time.Millisecond})
	v := h.prepare(nil, nil)
	go_, stop := pipe(t), pipe(t)
	cmd := exec.Command("bash", "-c", "exec 5>>log; echo >&3; read <&4")
	cmd.Dir = v.Target
	cmd.ExtraFiles = []*os.File{go_.w, stop.r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	require.NoError(t, cmd.Start())
	require.NoError(t, go_.w.Close())
	_, err := go_.r.Read(make([]byte, 1))
	require.NoError(t, err)
	// Its working directory is in its own copy of the mount, so a plain unmount
	// of ours would be let through: that is the trap.
	require.ErrorIs(t, h.d.Seal(t.Context(), v), snapshot.ErrBusy)
	require.NoError(t, stop.w.Close())
	_ = cmd.Wait()
	require.NoError(t, h.d.Seal(t.Context(), v))
}

type ends struct{ r, w *os.File }

func pipe(t *testing.T) ends {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close(); w.Close() })
	return ends{r, w}
}

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

// TestReconcileBusy: a mount that somebody still writes to is left and reported,
// and goes at the next try. So is one that is mounted outside of the store.
func TestReconcileBusy(t *testing.T) {
	h := newHost(t, Options{ReconcileWait: 5 * time.Millisecond})
	v := h.prepare(nil, nil)
	f, err := os.Create(filepath.Join(v.Target, "f"))
	require.NoError(t, err)
	report, err := h.d.Reconcile(t.Context(), nil, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(report, "\n"), "still written to")
	require.DirExists(t, h.d.dir(v.ID))
	_, err = f.WriteString("x")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	report, err = h.d.Reconcile(t.Context(), nil, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(report, "\n"), "unmounted "+v.Target)
	require.NoDirExists(t, h.d.dir(v.ID))
	require.NoDirExists(t, v.Target)
}

// TestMountsInAView: what a job mounted in its view goes with it.
func TestMountsInAView(t *testing.T) {
	h := newHost(t, Options{})
	v := h.prepare(nil, nil)
	h.put(v.Target, "d/hidden", "x")
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(v.Target, "d"), "tmpfs", 0, ""))
	h.put(v.Target, "d/shown", "y")
	require.NoError(t, h.d.Seal(t.Context(), v))
	m := h.tree(&v.Layer, nil)
	_, ok := m.Find("d/hidden")
	require.True(t, ok)
	_, ok = m.Find("d/shown")
	require.False(t, ok)
}

func TestParseMounts(t *testing.T) {
	long := strings.Repeat("lowerdir+=/x/views/aaaaaaaaaaaaaaaaaaaaaaaaaa/uaaaaaaaaaaaaaaaaaaaaaaaaaa,", 2000)
	text := "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n" +
		"37 35 0:9 / /v rw shared:1 propagate_from:2 - overlay roost rw," + long + "upperdir=/a\\054b/u,workdir=/a\\054b/w\n" +
		"38 35 0:9 / /old rw - overlay none rw,lowerdir=/l1:/l2,upperdir=/c\\134\\054d\n"
	m, err := parseMounts([]byte(text))
	require.NoError(t, err)
	require.Len(t, m, 3)
	require.Equal(t, "/mnt 2", m[0].point)
	require.Len(t, m[1].dirs, 2002)
	require.Contains(t, m[1].dirs, "/a,b/u")
	require.Contains(t, m[2].dirs, "/l2")
	require.Contains(t, m[2].dirs, "/c,d")
	for _, bad := range []string{"x\n", "1 2 3 4 5 6 7 8\n", "36 35 98:0 / /m rw -\n"} {
		_, err := parseMounts([]byte(bad))
		require.Error(t, err)
	}
}

// TestDeepStack goes past the depth at which views are flattened, on a chain of
// jobs and on a chain of unpacked layers.
func TestDeepStack(t *testing.T) {
	h := newHost(t, Options{MaxLowers: 12})
	var l *Layer
	var m *snapshot.Manifest
	for i := range 30 {
		l, m = h.job(l, m, func(dir string) { h.put(dir, fmt.Sprintf("f%02d", i), fmt.Sprint(i)) })
		require.LessOrEqual(t, len(l.Lowers), 12)
	}
	v := h.prepare(l, nil)
	for i := range 30 {
		require.Equal(t, fmt.Sprint(i), h.get(v.Target, fmt.Sprintf("f%02d", i)))
	}
	require.NoError(t, h.d.Discard(t.Context(), v))
	var u *Layer
	for i := range 30 {
		ch := []snapshot.Change{{Entry: snapshot.Entry{Path: fmt.Sprintf("f%02d", i), Type: snapshot.TypeFile, Mode: 0o644, Size: 1}}}
		var err error
		u, err = h.d.Unpack(t.Context(), newID(t), u, ch, func(_ context.Context, w WriteFunc) error { return w(0, 0, []byte("x")) }, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, len(u.Lowers), 12)
	}
}

// TestCancel: a context that ends leaves nothing.
func TestCancel(t *testing.T) {
	h := newHost(t, Options{})
	a, am := h.job(nil, nil, func(dir string) { h.put(dir, "f", "x") })
	_, cm := h.job(a, am, func(dir string) { h.put(dir, "g", "y") })
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	id := newID(t)
	_, err := h.d.Prepare(ctx, Spec{ID: id, Base: a, Fanin: &Fanin{Changes: ChangesOf(tree.Diff(am, cm))}, Target: filepath.Join(h.slot, "x")})
	require.ErrorIs(t, err, context.Canceled)
	require.NoDirExists(t, h.d.dir(id))
}

// TestSharedParent: where the file system of the target is shared, as systemd
// makes it, a view shows at the peers too, and goes from all of them.
func TestSharedParent(t *testing.T) {
	h := newHost(t, Options{})
	shared, peer := t.TempDir(), t.TempDir()
	require.NoError(t, unix.Mount("tmpfs", shared, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(shared, 0)) })
	require.NoError(t, unix.Mount("", shared, "", unix.MS_SHARED, ""))
	require.NoError(t, unix.Mount(shared, peer, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(peer, 0)) })
	prepare := func() *View {
		id := newID(t)
		v, err := h.d.Prepare(t.Context(), Spec{ID: id, Target: filepath.Join(shared, "v")})
		require.NoError(t, err)
		h.put(v.Target, "f", "x")
		require.Equal(t, "x", h.get(filepath.Join(peer, "v"), "f"))
		return v
	}
	v := prepare()
	require.NoError(t, unix.Mount("tmpfs", filepath.Join(peer, "v"), "tmpfs", 0, ""), "does not spread into the view")
	require.Equal(t, "x", h.get(v.Target, "f"))
	require.NoError(t, unix.Unmount(filepath.Join(peer, "v"), 0))
	require.NoError(t, h.d.Seal(t.Context(), v))
	require.NoFileExists(t, filepath.Join(peer, "v", "f"))

	prepare()
	_, err := h.d.Reconcile(t.Context(), []snapshot.ID{v.ID}, nil)
	require.NoError(t, err)
	require.NoFileExists(t, filepath.Join(shared, "v", "f"))
	require.NoFileExists(t, filepath.Join(peer, "v", "f"))
	h.put(shared, "still", "writable")
}

// TestPlainUnmountIsNotEnough is the trap that Seal's remount is there for: a
// writer in another mount namespace lives through an unmount here.
func TestPlainUnmountIsNotEnough(t *testing.T) {
	testenv.Require(t, testenv.Bash)
	h := newHost(t, Options{})
	v := h.prepare(nil, nil)
	ready, stop := pipe(t), pipe(t)
	cmd := exec.Command("bash", "-c", "cd "+v.Target+" && echo >&3; read <&4; echo late >written")
	cmd.ExtraFiles = []*os.File{ready.w, stop.r}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	require.NoError(t, cmd.Start())
	require.NoError(t, ready.w.Close())
	_, err := ready.r.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, unix.Unmount(v.Target, 0))
	require.NoError(t, stop.w.Close())
	require.NoError(t, cmd.Wait())
	require.FileExists(t, filepath.Join(h.d.abs(v.Layer.Dir), "written"), "written after the unmount")
}

// TestProbe leaves nothing behind.
func TestProbe(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	dir := t.TempDir()
	for _, p := range Probe(filepath.Join(dir, "store")) {
		if p.Name == NameOverlay || p.Name == NameCopy { // the others ask for more than testenv promises
			require.True(t, p.OK, "%+v", p)
		} else if !p.OK {
			require.NotEmpty(t, p.Why)
		}
	}
	left, err := readNames(dir)
	require.NoError(t, err)
	require.Empty(t, left)
	d, err := Open("", filepath.Join(dir, "store"), Options{})
	require.NoError(t, err)
	best := slices.IndexFunc(Probe(filepath.Join(dir, "store")), func(p Probed) bool { return p.OK && !p.OptIn })
	require.Equal(t, Names()[best], d.Name())
	_, err = Open("zfs", dir, Options{})
	require.Error(t, err)
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
