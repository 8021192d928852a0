//go:build unix

package agent

import "golang.org/x/sys/unix"

// diskSpace tells how much of dir's file system is free for us, and its size.
func diskSpace(dir string) (free, total int64) {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0, 0
	}
	return int64(st.Bavail) * int64(st.Bsize), int64(st.Blocks) * int64(st.Bsize) //nolint:unconvert,gosec // types differ by system
}

// diskUse measures the file system of a directory.
func diskUse(dir string) Disk {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return Disk{}
	}
	block := int64(st.Bsize) //nolint:unconvert // types differ by system
	return Disk{
		Used: int64(st.Blocks-st.Bfree) * block, Free: int64(st.Bavail) * block, Total: int64(st.Blocks) * block, //nolint:unconvert,gosec // as above
		Inodes: int64(st.Files) - int64(st.Ffree), InodesTotal: int64(st.Files), //nolint:unconvert,gosec // as above
	}
}
