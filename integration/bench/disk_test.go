//go:build bench && linux

package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// newDisk gives a tree a file system of its own, in a sparse file behind a loop
// device: what others create, delete and sync on the machine's disk, and what the
// tree before left there, then moves no figure. It returns its directory.
func newDisk(t *testing.T, set settings, name string) string {
	t.Helper()
	dir := mkdir(t, filepath.Join(set.dir, name))
	if set.fs == "none" {
		return dir
	}
	image := dir + ".img"
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 64<<30))
	t.Cleanup(func() { os.Remove(image) })
	switch set.fs {
	case "ext4":
		// Without noinit_itable the kernel goes on making the file system meanwhile.
		shell(t, `mkfs.ext4 -q -i 8192 "$1" && mount -o loop,noinit_itable "$1" "$2"`, image, dir)
	case "xfs":
		shell(t, `mkfs.xfs -q "$1" && mount -o loop "$1" "$2"`, image, dir)
	}
	t.Cleanup(func() {
		// The views are gone by now: what holds the disk is a mistake of ours.
		shellAfter(t, `umount "$1"`, dir)
	})
	return dir
}
