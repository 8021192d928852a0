//go:build !unix

package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

func sameDevice(root, target string) error {
	if filepath.VolumeName(root) != filepath.VolumeName(target) {
		return fmt.Errorf("%s is not on the volume of the store at %s; the copying driver moves trees between them", target, root)
	}
	return nil
}

func openRegular(name string) (*os.File, error) {
	fi, err := os.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return os.Open(name)
}

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

func copyContent(ctx context.Context, dst, src *os.File, size int64, m *Meter) error {
	const step = 8 << 20
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		want := min(step, size-off)
		n, err := io.Copy(io.NewOffsetWriter(dst, off), io.NewSectionReader(src, off, want))
		m.Add(n)
		if err != nil {
			return err
		}
		if n < want {
			return &snapshot.CorruptError{What: "file", Name: src.Name(), Why: fmt.Sprintf("shorter than %d bytes", size)}
		}
		off += n
	}
	return nil
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read from
	return d.Readdirnames(-1)
}

// moveGarbage renames what nobody needs any more.
func moveGarbage(from, to string) error { return durable.Rename(from, to) }

// allowMove has nothing to do: no mode forbids it here.
func allowMove(string) error { return nil }

func (l layout) remove(ctx context.Context, p string) error {
	to, err := l.toTrash(p)
	if err != nil || to == "" {
		return err
	}
	return shred(ctx, to)
}

func (l layout) emptyTrash(ctx context.Context) error {
	names, err := readNames(l.abs(trashDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		errs = append(errs, shred(ctx, filepath.Join(l.abs(trashDir), n)))
	}
	return errors.Join(errs...)
}

// shred deletes a tree in the trash, read-only files included.
func shred(ctx context.Context, p string) error {
	if os.RemoveAll(p) == nil {
		return nil
	}
	err := filepath.WalkDir(p, func(q string, _ os.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = os.Chmod(q, 0o700)
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(p))
}

// canSyncDirs: directories can't be synced here, and files only when they were
// opened for writing, which a read-only file can't be.
const canSyncDirs = false

// inode is not known here: no file has unreadable names.
func inode(os.FileInfo) uint64 { return 0 }
