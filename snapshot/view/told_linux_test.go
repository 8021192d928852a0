package view

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// failingDisk is an ext4 whose disk takes what is on it, and from break on nothing that
// is new. Without a journal, which would end it all at the first error.
func failingDisk(t *testing.T) (dir string, end func()) {
	testenv.Require(t, testenv.Overlay, testenv.Loop, testenv.Need("mkfs.ext4"))
	below, dir := t.TempDir(), t.TempDir()
	run := func(name string, arg ...string) {
		t.Helper()
		out, err := exec.Command(name, arg...).CombinedOutput()
		require.NoError(t, err, "%s %q: %s", name, arg, out)
	}
	run("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", below)
	t.Cleanup(func() { run("umount", below) })
	img := filepath.Join(below, "img")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, 64<<20))
	run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-E", "nodiscard,lazy_itable_init=0", img)
	run("mount", "-o", "loop,errors=continue", img, dir)
	t.Cleanup(func() {
		require.Eventually(t, func() bool {
			runtime.GC() // a driver keeps files open that only its end closes
			return unix.Unmount(dir, 0) == nil
		}, time.Minute, 10*time.Millisecond)
	})
	return dir, func() {
		f, err := os.Create(filepath.Join(below, "ballast"))
		require.NoError(t, err)
		defer f.Close()
		for n := 1 << 20; n >= 512; {
			if _, err := f.Write(make([]byte, n)); err != nil {
				require.ErrorIs(t, err, unix.ENOSPC)
				n /= 8
			}
		}
	}
}

// TestSyncOfAnEarlierProcess: a disk failed under what a job wrote, somebody else was told
// of it, and then the process came to its end. The next one is not told by the file
// system, and knows all the same.
func TestSyncOfAnEarlierProcess(t *testing.T) {
	for name, open := range map[string]func(string, Options) (Driver, error){NameOverlay: NewOverlay, NameErofs: NewErofs, NameCopy: NewCopy} {
		for _, resumed := range []bool{false, true} {
			if resumed && name == NameCopy {
				continue
			}
			t.Run(name+map[bool]string{true: ", taken over"}[resumed], func(t *testing.T) {
				disk, fail := failingDisk(t)
				start := func() Driver {
					d, err := open(filepath.Join(disk, "s"), Options{Owners: true})
					require.NoError(t, err)
					return d
				}
				d := start()
				other, err := os.Open(disk)
				require.NoError(t, err)
				defer other.Close()
				id := newID(t)
				v, err := d.Prepare(t.Context(), Spec{ID: id, Target: filepath.Join(disk, "v")})
				require.NoError(t, err)
				require.NoError(t, unix.Syncfs(int(other.Fd())))
				fail()
				require.NoError(t, os.WriteFile(filepath.Join(v.Target, "f"), make([]byte, 4<<20), 0o644))
				if !resumed {
					require.NoError(t, d.Seal(t.Context(), v))
				}
				require.Error(t, unix.Syncfs(int(other.Fd())), "the disk has taken it")
				after, err := os.Open(disk)
				require.NoError(t, err)
				require.NoError(t, unix.Syncfs(int(after.Fd())), "the error is told once more: nothing to be tried here")
				require.NoError(t, after.Close())

				d = start()
				if resumed {
					require.NoError(t, d.(Resumer).Resume(t.Context(), v))
					require.NoError(t, d.Seal(t.Context(), v))
				}
				require.Error(t, d.Sync(t.Context(), &v.Layer))
				require.NoError(t, d.Remove(context.WithoutCancel(t.Context()), &v.Layer))
			})
		}
	}
}
