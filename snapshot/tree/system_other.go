//go:build !unix

package tree

import "io/fs"

// system has nothing to add: hard links are recorded as files of their own.
func system(it *Item, _ fs.FileInfo, _ ScanOptions) { it.Inode.Nlink = 1 }
