//go:build !linux

package store

import (
	"errors"
	"os"
)

// dataSync makes what was written to f durable.
func dataSync(f *os.File) error { return f.Sync() }

// openPast opens a file for writing whole pages past the page cache.
func openPast(string) (*os.File, error) { return nil, errors.ErrUnsupported }
