package blob

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// sizer is the part of a Store that tells what it has.
type sizer interface {
	Stat(ctx context.Context, d snapshot.Digest) (int64, error)
}

// holds reports whether s has d already, in that size. No store takes what can't be
// under that name.
func holds(ctx context.Context, s sizer, d snapshot.Digest, size int64) (bool, error) {
	if d.IsZero() || size < 0 {
		return false, corrupt(d, fmt.Sprintf("can't put %d bytes under this name", size))
	}
	have, err := s.Stat(ctx, d)
	if errors.Is(err, snapshot.ErrNotFound) {
		return false, nil
	}
	return err == nil && have == size, err
}

// copyVerified copies exactly size bytes that hash to d.
func copyVerified(ctx context.Context, w io.Writer, r io.Reader, d snapshot.Digest, size int64) error {
	h := sha256.New()
	buf := make([]byte, min(size+1, 256<<10))
	var got int64
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := r.Read(buf)
		if got += int64(n); got > size {
			return corrupt(d, fmt.Sprintf("more than the %d bytes announced", size))
		}
		h.Write(buf[:n])
		if _, werr := w.Write(buf[:n]); werr != nil {
			return fmt.Errorf("blob %s: %w", d, werr)
		}
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a broken body
			break
		}
		if err != nil {
			return fmt.Errorf("blob %s: body: %w", d, err)
		}
	}
	if got != size {
		return fmt.Errorf("blob %s: body: %d of %d bytes: %w", d, got, size, io.ErrUnexpectedEOF)
	}
	if sum := snapshot.Digest(h.Sum(nil)); sum != d {
		return corrupt(d, "the bytes hash to "+sum.String())
	}
	return nil
}

func corrupt(d snapshot.Digest, why string) error {
	return &snapshot.CorruptError{What: "blob", Name: d.String(), Why: why}
}

func notFound(d snapshot.Digest) error {
	return fmt.Errorf("blob %s: %w", d, snapshot.ErrNotFound)
}
