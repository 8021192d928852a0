package store

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// defaultReserve is far above what the database writes to delete one layer (a few
// pages of WAL), so that hundreds of deletions fit.
const defaultReserve = 16 << 20

// ReserveName is the file in a store's directory that is there to be given up.
const ReserveName = "reserve"

// reserve is a file of real blocks that is given up when a deletion finds the
// disk full, and taken again when there is room.
type reserve struct {
	path  string
	bytes int64
	mu    sync.Mutex // guards the file
}

func newReserve(dir string, bytes int64) *reserve {
	if bytes == 0 {
		bytes = defaultReserve
	}
	return &reserve{path: filepath.Join(dir, ReserveName), bytes: bytes}
}

// take makes the file have its size on disk. On error it is empty.
func (r *reserve) take() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() == r.bytes {
		return nil
	}
	if err := allocate(f, r.bytes); err != nil {
		f.Truncate(0) //nolint:errcheck // the first error is the one to tell
		return fmt.Errorf("reserve: %w", err)
	}
	return nil
}

// give frees the space and reports whether there was any. The sync makes the file
// system hand out the freed blocks.
func (r *reserve) give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 || f.Truncate(0) != nil {
		return false
	}
	return f.Sync() == nil
}

// writeZeros is how blocks are had where no call gives them.
func writeZeros(f *os.File, n int64) error {
	var z [64 << 10]byte
	for off := int64(0); off < n; {
		k, err := f.WriteAt(z[:min(int64(len(z)), n-off)], off)
		if err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}
