package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// refill writes good bytes over the damaged runs of a file, from packs here or in
// the blob store. The file stays the same one, so whoever has it open or mounted
// gets the good bytes.
func (c *checkup) refill(ctx context.Context, e *snapshot.Entry, bad []pack.Span) (string, error) {
	var errs []error
	for _, src := range []struct {
		from string
		open OpenBlobFunc
	}{{fromPacks, c.x.s.OpenRange}, {fromBlobStore, c.x.o.Open}} {
		if src.open == nil {
			continue
		}
		err := c.refillFrom(ctx, e, bad, src.open)
		if err == nil {
			return src.from, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		errs = append(errs, fmt.Errorf("%s: %w", src.from, err))
	}
	return "", errors.Join(append(errs, errNoCopy)...)
}

func (c *checkup) refillFrom(ctx context.Context, e *snapshot.Entry, bad []pack.Span, open OpenBlobFunc) error {
	ix, err := c.indexWith(ctx, e)
	if err != nil {
		return err
	}
	w, err := openMended(e.Source)
	if err != nil {
		return err
	}
	o := pack.ExtractOptions{Key: c.l.key, Workers: c.x.s.o.Workers, Open: open}
	err = pack.Refill(ctx, ix, o, e, bad, func(off int64, p []byte) error {
		_, err := w.f.WriteAt(p, e.SourceAt+off)
		return err
	})
	fail.Point("store.scrub.mended")
	if err = errors.Join(err, w.close()); err != nil {
		return err
	}
	left, err := pack.Examine(ctx, c.l.key, e, func(int64) error { return nil })
	if err == nil && len(left) > 0 {
		err = errors.New("it reads as wrong as before")
	}
	return err
}

// imageAgain has an image of l made once more from its tree. Views that were mounted
// on the damaged one go on with that.
func (s *Store) imageAgain(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	if _, ok := s.driver.(imager); !ok {
		return errNoCopy
	}
	return s.newImage(ctx, l, m)
}

// indexWith returns an index that has e's chunks: the layer's own, or of what that is
// against.
func (c *checkup) indexWith(_ context.Context, e *snapshot.Entry) (*pack.Index, error) {
	ix, id := c.ix, c.in.WireBase
	for {
		at := ix.Locate()
		if !slices.ContainsFunc(e.Chunks, func(ch snapshot.Chunk) bool { _, ok := at[ch.ID]; return !ok }) {
			return ix, nil
		}
		if id == "" {
			return nil, errors.New("its chunks are in no index")
		}
		in, err := c.x.s.Lookup(id)
		if err != nil {
			return nil, err
		}
		if ix, err = c.x.s.readIndex(in.Index); err != nil {
			return nil, err
		}
		id = in.WireBase
	}
}

// mended is a sealed file that is written to, which nobody else ever does.
type mended struct {
	f  *os.File
	fi os.FileInfo
}

func openMended(path string) (*mended, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrPermission) {
		if err = os.Chmod(path, fi.Mode()|0o200); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	return &mended{f, fi}, nil
}

// close makes the bytes durable, and the file look as before.
func (m *mended) close() error {
	err := m.f.Sync()
	err = errors.Join(err, m.f.Close(), os.Chmod(m.f.Name(), m.fi.Mode()))
	return errors.Join(err, os.Chtimes(m.f.Name(), m.fi.ModTime(), m.fi.ModTime()))
}
