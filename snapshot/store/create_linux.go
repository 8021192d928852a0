package store

import (
	"io/fs"
	"syscall"
)

// ctimeOf returns when a file's inode was changed last.
func ctimeOf(fi fs.FileInfo) (ns int64, ok bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Ctim.Nano(), true
}
