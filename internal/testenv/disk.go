package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

// Kinds of file systems for Disk.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
)

// Disk makes a file system of that kind in a file, mounts it until t ends, and
// returns where. It needs root, loop devices and the kind's mkfs. XFS takes no
// less than 300 MiB, btrfs 110. The file is sparse.
func Disk(t testing.TB, kind string, size int64) string {
	t.Helper()
	Require(t, Linux, Root, Loop, Need("mkfs."+kind))
	img, dir := filepath.Join(t.TempDir(), "img"), t.TempDir()
	for _, err := range []error{os.WriteFile(img, nil, 0o600), os.Truncate(img, size)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, arg ...string) {
		t.Helper()
		if out, err := exec.Command(name, arg...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q: %v: %s", name, arg, err, out)
		}
	}
	quiet := map[string][]string{Ext4: {"-q", "-F", "-m", "0"}, XFS: {"-q"}, Btrfs: {"-q"}}[kind]
	run("mkfs."+kind, append(quiet, img)...)
	run("mount", "-o", "loop", img, dir)
	t.Cleanup(func() {
		var out []byte
		var err error
		for range 1200 { // files that nobody has any more are closed by the collector
			if out, err = exec.Command("umount", dir).CombinedOutput(); err == nil {
				return
			}
			runtime.GC()
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("umount %s: %v: %s", dir, err, out)
	})
	return dir
}
