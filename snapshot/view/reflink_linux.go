package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// cloneContent makes dst share the extents of src, or fails.
func cloneContent(_ context.Context, dst, src *os.File, size int64, _ *Meter) error {
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if fi.Size() != size {
		return &snapshot.CorruptError{What: "file", Name: src.Name(), Why: fmt.Sprintf("has %d bytes, not %d", fi.Size(), size)}
	}
	if size == 0 {
		return nil
	}
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return fmt.Errorf("%s: %w: %w", src.Name(), errNoClone, err)
	}
	return nil
}

// cloneRefused remembers that a file system said that it does not clone at all.
type cloneRefused struct{ yes atomic.Bool }

func (r *cloneRefused) load() bool { return r.yes.Load() }

func (r *cloneRefused) note(err error) {
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EXDEV) {
		r.yes.Store(true)
	}
}

// tryReflink clones a file of two blocks in dir, which exists.
func tryReflink(dir string) error {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // two small files
	src, err := os.Create(filepath.Join(tmp, "a"))
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // of no use any more
	if _, err := src.Write(make([]byte, 8192)); err != nil {
		return err
	}
	dst, err := os.Create(filepath.Join(tmp, "b"))
	if err != nil {
		return err
	}
	defer dst.Close() //nolint:errcheck // of no use any more
	if err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())); err != nil {
		return fmt.Errorf("%s does not clone files: %w", FileSystem(dir), err)
	}
	return nil
}
