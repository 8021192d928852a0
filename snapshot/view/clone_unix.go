//go:build unix

package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// copySource copies the content of e's Source into f, an empty file.
func copySource(ctx context.Context, f *os.File, e *snapshot.Entry, m *Meter) error {
	src, err := openRegular(e.Source)
	if err != nil {
		return err
	}
	defer src.Close() //nolint:errcheck // only read from
	return copyContent(ctx, f, src, e.Size, m)
}

// openRegular opens a regular file without following a link at its end, and
// without being stopped by a fifo that stands there.
func openRegular(name string) (*os.File, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
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

// cloneOptions of cloneTree.
type cloneOptions struct {
	from, to string // directories; to is empty
	owners   bool
	meter    *Meter
	// mode says what a path's mode really is, where the copy on disk had to be
	// given another. nil: as on disk.
	mode func(path string, onDisk uint32) uint32
}

// builder fills a private directory with a tree. Directories stay open to us
// (0700) and get their look at the end, when nothing touches their times any more.
type builder struct {
	p     *placer
	meter *Meter
	dirs  map[string]snapshot.Entry
}

func newBuilder(dir string, owners bool, m *Meter) (*builder, error) {
	p, err := newPlacer(dir, owners)
	if err != nil {
		return nil, err
	}
	return &builder{p: p, meter: m, dirs: map[string]snapshot.Entry{}}, nil
}

// cloneTree copies a whole tree, looks of directories included.
func cloneTree(ctx context.Context, o cloneOptions) error {
	b, err := newBuilder(o.to, o.owners, o.meter)
	if err != nil {
		return err
	}
	defer b.p.close()
	if err := b.clone(ctx, o.from, o.mode); err != nil {
		return err
	}
	return b.finish(nil)
}

type inodeKey struct{ dev, ino uint64 }

// clone copies the tree at from, but for the look of its directories.
func (b *builder) clone(ctx context.Context, from string, mode func(string, uint32) uint32) error {
	src, err := newPlacer(from, false)
	if err != nil {
		return err
	}
	defer src.close()
	links := map[inodeKey]string{}
	return tree.Walk(ctx, from, tree.ScanOptions{Owners: b.p.owners}, func(it *tree.Item) error {
		e := it.Entry
		if it.Inode.Char || len(it.Special) > 0 {
			return &snapshot.UnsupportedError{Path: e.Path, What: "overlay mark in a tree that is no layer"}
		}
		if mode != nil {
			e.Mode = mode(e.Path, e.Mode)
		}
		key := inodeKey{it.Inode.Dev, it.Inode.Ino}
		if e.Type == snapshot.TypeFile && it.Inode.Nlink > 1 {
			if first, ok := links[key]; ok {
				return b.p.link(first, e.Path)
			}
			links[key] = e.Path
		}
		return b.place(ctx, &e, func(dst *os.File) error {
			f, err := src.open(e.Path, unix.O_RDONLY)
			if err != nil {
				return err
			}
			defer f.Close() //nolint:errcheck // only read from
			return copyContent(ctx, dst, f, e.Size, b.meter)
		})
	})
}

// place makes one entry at a free name. content fills a file.
func (b *builder) place(ctx context.Context, e *snapshot.Entry, content func(*os.File) error) error {
	switch e.Type {
	case snapshot.TypeDir:
		b.dirs[e.Path] = *e
		if e.Path == "" {
			return nil
		}
		return b.p.mkdir(e.Path)
	case snapshot.TypeFile:
		f, err := b.p.create(e.Path)
		if err != nil {
			return err
		}
		defer f.Close() //nolint:errcheck // synced as a whole, where errors are seen
		if err := content(f); err != nil {
			return err
		}
		return b.p.metaFD(f, e)
	case snapshot.TypeSymlink:
		if err := b.p.symlink(e.Target, e.Path); err != nil {
			return err
		}
		return b.p.meta(e.Path, e)
	case snapshot.TypeFifo, snapshot.TypeSocket:
		if err := b.p.node(e.Path, e.Type); err != nil {
			return err
		}
		return b.p.meta(e.Path, e)
	}
	return &snapshot.UnsupportedError{Path: e.Path, What: e.Type.String() + " entry"}
}

// finish gives the directories their look, the deepest first. mode may change
// what is put on disk.
func (b *builder) finish(mode func(e *snapshot.Entry) error) error {
	paths := slices.SortedFunc(maps.Keys(b.dirs), snapshot.ComparePaths)
	for _, p := range slices.Backward(paths) {
		e := b.dirs[p]
		if mode != nil {
			if err := mode(&e); err != nil {
				return err
			}
		}
		if err := b.p.meta(p, &e); err != nil {
			return err
		}
	}
	return nil
}
