package view

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// fsNames has the file systems that stores lie on.
var fsNames = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "XFS", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "NFS",
	unix.F2FS_SUPER_MAGIC: "f2fs", 0x2fc12fc1: "ZFS", 0xca451a4e: "bcachefs", unix.FUSE_SUPER_MAGIC: "FUSE",
}

// FileSystem is what people call the file system at dir, such as ext4.
func FileSystem(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return dir
	}
	t := int64(st.Type) & 0xffffffff //nolint:unconvert // differs by architecture
	if n, ok := fsNames[t]; ok {
		return n
	}
	return fmt.Sprintf("file system %#x", t)
}
