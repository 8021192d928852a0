//go:build !linux

package store

import "io/fs"

// ctimeOf knows nothing here.
func ctimeOf(fs.FileInfo) (ns int64, ok bool) { return 0, false }
