package view

import (
	"context"
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
