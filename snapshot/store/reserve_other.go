//go:build !linux

package store

import "os"

// allocate gives f n bytes of real blocks.
func allocate(f *os.File, n int64) error { return writeZeros(f, n) }
