package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// defaultReserve is far above what the database writes to delete one layer (a few
// pages of WAL), so that hundreds of deletions fit.
const defaultReserve = 16 << 20

// reserveFiles is far above how many files it takes to open a store and its driver: the
// log of the database, and what the driver tries. File systems such as ext4 have only so
// many, and jobs that leave millions of small ones use them up before the blocks.
const reserveFiles = 32

// reserve is a file of real blocks, and empty files in a directory beside it, that are
// given up when a deletion finds the disk full, and taken again when there is room.
type reserve struct {
	path  string
	bytes int64
	mu    sync.Mutex // guards the files
}

// GiveReserve gives up what the store in dir, which nobody has open, keeps for deletions,
// and reports whether there was any.
func GiveReserve(dir string) bool { return newReserve(dir, 0).give() }

func newReserve(dir string, bytes int64) *reserve {
	if bytes == 0 {
		bytes = defaultReserve
	}
	return &reserve{path: filepath.Join(dir, "reserve"), bytes: bytes}
}

// files is the directory of the empty files.
func (r *reserve) files() string { return r.path + "-files" }

// take makes the file have its size on disk, and the empty ones. On error the file is empty.
func (r *reserve) take() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.takeFiles(); err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
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

func (r *reserve) takeFiles() error {
	if names, err := os.ReadDir(r.files()); err == nil && len(names) == reserveFiles {
		return nil
	}
	if err := os.Mkdir(r.files(), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	for i := range reserveFiles {
		f, err := os.OpenFile(filepath.Join(r.files(), strconv.Itoa(i)), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		f.Close() //nolint:errcheck // nothing was written
	}
	return nil
}

// give frees the space and the files, and reports whether there were any.
func (r *reserve) give() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := os.Lstat(r.files())
	given := err == nil && os.RemoveAll(r.files()) == nil
	return r.giveBytes() || given
}

// giveBytes frees the space. The sync makes the file system hand out the freed blocks.
func (r *reserve) giveBytes() bool {
	f, err := os.OpenFile(r.path, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil || fi.Size() == 0 {
		return false
	}
	if f.Truncate(0) != nil && os.Remove(r.path) != nil { // a quota may stand in the way of the one
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
