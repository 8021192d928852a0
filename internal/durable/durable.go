// Package durable is the only place that renames: it makes a file or a directory
// appear under its final name whole and for good, or not at all.
package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/fail"
)

// File is a file that does not exist under its name until Commit.
type File struct {
	*os.File
	done bool
}

// Create makes a temporary file in dir, which must be on the file system where
// Commit will put it. Recovery deletes everything in dir.
func Create(dir string) (*File, error) {
	f, err := os.CreateTemp(dir, "tmp-*")
	if err != nil {
		return nil, err
	}
	return &File{File: f}, nil
}

// Write is os.File's, MaxWrite bytes at a time.
func (f *File) Write(b []byte) (n int, err error) {
	for {
		k, err := f.File.Write(b[n:min(len(b), n+MaxWrite)])
		if n += k; err != nil || n == len(b) {
			return n, err
		}
	}
}

// Commit syncs the file, closes it, gives it its name and syncs that directory.
//
// Crash states, in order:
//  1. before Sync returns: only the temporary name exists; recovery deletes it.
//  2. after the rename, before the directory is synced: the name may not survive a
//     power cut. Nothing may refer to it yet, so either is fine.
//  3. after Commit returned: durable. Only now may anything name it.
//
// An error from any step is final: the file is dropped, never synced again (a
// second fsync can say yes to lost bytes).
func (f *File) Commit(name string) error {
	if err := f.Sync(); err != nil {
		f.Abort()
		return err
	}
	fail.Point("durable.synced")
	if err := f.Close(); err != nil {
		f.Abort()
		return err
	}
	f.done = true
	if err := os.Rename(f.Name(), name); err != nil {
		os.Remove(f.Name()) //nolint:errcheck // the first error is the one to tell
		return err
	}
	fail.Point("durable.renamed")
	return SyncDir(filepath.Dir(name))
}

// Abort drops the file. After Commit it does nothing, so it can be deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.Close()           //nolint:errcheck // dropped anyway
	os.Remove(f.Name()) //nolint:errcheck // recovery deletes what is left
}

// WriteFile writes name through a temporary file beside it.
func WriteFile(name string, perm os.FileMode, write func(io.Writer) error) error {
	f, err := Create(filepath.Dir(name))
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	return f.Commit(name)
}

// Rename moves a file or directory and syncs both parents. What is moved must
// have been synced by the caller if its content matters.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	fail.Point("durable.moved")
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return SyncDir(filepath.Dir(from))
}

// MkdirEach makes those of some directories in parent that are absent, and syncs parent
// once for all of them.
func MkdirEach(parent string, perm os.FileMode, names ...string) error {
	made := false
	for _, n := range names {
		dir := filepath.Join(parent, n)
		if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
			continue
		}
		if err := os.Mkdir(dir, perm); err != nil {
			return err
		}
		made = true
	}
	if !made {
		return nil
	}
	return SyncDir(parent)
}

// MkdirAll makes a directory and syncs every parent that it had to make.
func MkdirAll(dir string, perm os.FileMode) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if fi, err := os.Stat(dir); err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("%s: not a directory", dir)
		}
		return nil
	}
	parent := filepath.Dir(dir)
	if err := MkdirAll(parent, perm); err != nil {
		return err
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return SyncDir(parent)
}
