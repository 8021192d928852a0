package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// writeIndex makes indexes/<digest>.
func (s *Store) writeIndex(ix *pack.Index) (d snapshot.Digest, n int64, err error) {
	return s.writeIndexBy("", func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, ix) })
}

// writeIndexBy makes indexes/<digest> of what write writes, which the row of id will name. "" is
// for who removes nothing meanwhile.
func (s *Store) writeIndexBy(id snapshot.ID, write func(*bufio.Writer) (snapshot.Digest, error)) (d snapshot.Digest, n int64, err error) {
	f, d, n, err := s.draftIndex(write)
	if err != nil {
		return d, 0, fmt.Errorf("index: %w", err)
	}
	defer f.Abort()
	if id != "" {
		s.named.claim(id, d)
	}
	if err := f.Commit(s.indexPath(d)); err != nil {
		return d, 0, fmt.Errorf("index: %w", err)
	}
	return d, n, fileDigest(s.indexPath(d), "index", d)
}

// draftIndex makes a file of what write writes, n bytes. It has no name until the caller
// commits it; on error there is none.
func (s *Store) draftIndex(write func(*bufio.Writer) (snapshot.Digest, error)) (f *durable.File, d snapshot.Digest, n int64, err error) {
	if f, err = durable.Create(filepath.Join(s.dir, "tmp")); err != nil {
		return nil, d, 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if d, err = write(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		n, err = f.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		f.Abort()
		return nil, d, 0, err
	}
	return f, d, n, nil
}

// readIndex reads an index of this store and checks that it is the one asked for.
func (s *Store) readIndex(d snapshot.Digest) (*pack.Index, error) {
	f, err := os.Open(s.indexPath(d))
	if err != nil {
		return nil, lost("index", d, err)
	}
	defer f.Close()
	return decodeIndex(bufio.NewReaderSize(f, 1<<20), d)
}

// readTables is readIndex without the changes.
func (s *Store) readTables(d snapshot.Digest) (*pack.Index, error) {
	x, err := s.openIndex(d)
	if err != nil {
		return nil, err
	}
	defer x.Close() //nolint:errcheck // only read
	return x.Tables, x.skip()
}

// indexFile is an index of this store that is read change by change.
type indexFile struct {
	*pack.IndexReader
	f *os.File
	d snapshot.Digest
}

// openIndex begins to read an index. Whether it is the one that was asked for shows at
// its end: by next, or by skip.
func (s *Store) openIndex(d snapshot.Digest) (*indexFile, error) {
	return openIndexAt(s.indexPath(d), d)
}

func openIndexAt(path string, d snapshot.Digest) (*indexFile, error) {
	f, size, err := openSized(path)
	if err != nil {
		return nil, lost("index", d, err)
	}
	r, err := pack.NewIndexReader(bufio.NewReaderSize(f, 1<<20), size)
	if err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	return &indexFile{r, f, d}, nil
}

// openSized opens a file and says how long it is.
func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// Close implements io.Closer.
func (x *indexFile) Close() error {
	x.IndexReader.Close()
	return x.f.Close()
}

// next fills in the next change; io.EOF behind the last one says that all was right.
func (x *indexFile) next(ch *snapshot.Change) error { return x.ended(x.Next(ch)) }

// skip leaves the changes out.
func (x *indexFile) skip() error { return x.ended(x.Skip()) }

func (x *indexFile) ended(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("index %s: %w", x.d, err)
	}
	if got := x.Digest(); got != x.d && !got.IsZero() {
		return &snapshot.CorruptError{What: "index", Name: x.d.String(), Why: "its digest is " + got.String()}
	}
	return err
}

// decodeIndex reads an index of which only the digest is known.
func decodeIndex(r io.Reader, d snapshot.Digest) (*pack.Index, error) {
	h := sha256.New()
	ix, err := pack.ReadIndex(io.TeeReader(r, h))
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	if got := snapshot.Digest(h.Sum(nil)); got != d {
		return nil, &snapshot.CorruptError{What: "index", Name: d.String(), Why: "its digest is " + got.String()}
	}
	return ix, nil
}

// fileDigest checks that a file holds what its name says.
func fileDigest(path, what string, d snapshot.Digest) error {
	return checkDigest(path, what, d, func(w io.Writer) io.Writer { return w })
}

// fileDigestAside is fileDigest that stands aside while the gate of ctx is held.
func fileDigestAside(ctx context.Context, path, what string, d snapshot.Digest) error {
	return checkDigest(path, what, d, func(w io.Writer) io.Writer { return quiet.Writer(ctx, w) })
}

func checkDigest(path, what string, d snapshot.Digest, by func(io.Writer) io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return lost(what, d, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(by(h), f); err != nil {
		return fmt.Errorf("%s %s: %w", what, d, err)
	}
	if got := snapshot.Digest(h.Sum(nil)); got != d {
		return &snapshot.CorruptError{What: what, Name: d.String(), Why: "its digest is " + got.String()}
	}
	return nil
}
