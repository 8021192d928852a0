//go:build unix

package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/longpath"
)

// copySource copies the content of e's Source into f, an empty file.
func copySource(ctx context.Context, f *os.File, e *snapshot.Entry, m *Meter) error {
	src, err := openRegular(e.Source)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	if e.SourceAt > 0 {
		return copyRun(f, src, e, m)
	}
	return copyContent(ctx, f, src, e.Size, m)
}

// openRegular opens a regular file without following a link at its end, and
// without being stopped by a fifo that stands there.
func openRegular(name string) (*os.File, error) {
	var fd int
	err := longpath.Do(name, func(path string) (err error) {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		f.Close() //nolint:errcheck // only read from
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return f, nil
}

// copyContent makes dst hold the size bytes of src: by sharing extents where the
// file system can, which writes nothing, else by copying what is not a hole.
func copyContent(ctx context.Context, dst, src *os.File, size int64, m *Meter) error {
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
	if reflink(dst, src) {
		return nil
	}
	if err := dst.Truncate(size); err != nil {
		return err
	}
	for off := int64(0); off < size; {
		lo, hi, err := dataRange(src, off, size)
		if err != nil {
			return err
		}
		if lo >= size {
			return nil
		}
		if err := copyRange(ctx, dst, src, lo, hi, m); err != nil {
			return err
		}
		off = hi
	}
	return nil
}

// copyRange copies [lo, hi) in steps, so that ctx is heard.
func copyRange(ctx context.Context, dst, src *os.File, lo, hi int64, m *Meter) error {
	const step = 8 << 20
	for lo < hi {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := copyStep(dst, src, lo, min(step, hi-lo))
		m.Add(n)
		if err != nil {
			return &os.PathError{Op: "copy", Path: src.Name(), Err: err}
		}
		lo += n
	}
	return nil
}

// copyPlain is copyStep by reading and writing.
func copyPlain(dst, src *os.File, off, n int64) (int64, error) {
	w := io.NewOffsetWriter(dst, off)
	done, err := io.Copy(w, io.NewSectionReader(src, off, n))
	if err == nil && done < n {
		err = io.ErrUnexpectedEOF // it shrank
	}
	return done, err
}

// dataRange returns the first run of data at or behind off; lo is size when only
// a hole follows. A file system that knows no holes is all data.
func dataRange(f *os.File, off, size int64) (lo, hi int64, err error) {
	lo, err = f.Seek(off, seekData)
	switch {
	case errors.Is(err, unix.ENXIO):
		return size, size, nil
	case err != nil:
		return off, size, nil //nolint:nilerr // no holes known: copy all
	}
	hi, err = f.Seek(lo, seekHole)
	if err != nil || hi <= lo || hi > size {
		hi = size
	}
	return lo, hi, nil
}
