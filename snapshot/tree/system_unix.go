//go:build unix && !linux

package tree

import (
	"io/fs"
	"syscall"
)

// system fills in what package os knows of a Unix inode.
func system(it *Item, fi fs.FileInfo, o ScanOptions) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return
	}
	it.Inode.Dev, it.Inode.Ino = uint64(st.Dev), uint64(st.Ino) //nolint:unconvert // differs by system
	it.Inode.Nlink = uint32(st.Nlink)                           //nolint:unconvert // same
	if o.Owners {
		it.Entry.UID, it.Entry.GID = st.Uid, st.Gid
	}
}
