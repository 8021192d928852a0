//go:build !linux

package treecheck

import (
	"io/fs"
	"os"
)

// stat fills in what package os knows of path: no owners, attributes or links.
func (n *node) stat(path string) (inode [2]uint64, links uint64, err error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return inode, 0, err
	}
	n.mode = uint32(fi.Mode() &^ fs.ModeType)
	n.sec, n.nsec = fi.ModTime().Unix(), int64(fi.ModTime().Nanosecond())
	switch fi.Mode().Type() {
	case 0:
		n.kind, n.size = "file", fi.Size()
	case fs.ModeDir:
		n.kind = "directory"
	case fs.ModeSymlink:
		n.kind = "symlink"
		n.target, err = os.Readlink(path)
	default:
		n.kind = fi.Mode().Type().String()
	}
	return inode, 1, err
}

func nextData(_ *os.File, off int64) (int64, error) { return off, nil }
