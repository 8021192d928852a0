package blob

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
)

// checkHeader asks a Handler, with a HEAD, to read a blob before it says that it is
// there.
const checkHeader = "Roost-Check"

// checker is a Store that can read a blob and set it aside if it is damaged.
type checker interface {
	Check(ctx context.Context, d snapshot.Digest) error
}

// check reads the blob of a request first, if that is asked for.
func (h *handler) check(q *request) error {
	if q.Method != http.MethodHead || q.Header.Get(checkHeader) == "" {
		return nil
	}
	c, ok := h.store.(checker)
	if !ok {
		return nil
	}
	err := c.Check(q.Context(), q.digest)
	var bad *snapshot.CorruptError
	if errors.As(err, &bad) {
		h.o.Log.Error("a blob is damaged; it was set aside", "digest", q.digest, "error", err)
		return notFound(q.digest)
	}
	return err
}

// Check has the store read a blob whole. snapshot.ErrNotFound says that it is not
// there, or not any more: it was damaged, and whoever has it can put it again.
func (h *HTTP) Check(ctx context.Context, d snapshot.Digest) error {
	r, err := h.request(ctx, http.MethodHead, d, nil)
	if err != nil {
		return err
	}
	r.Header.Set(checkHeader, "1")
	resp, err := h.do(r, d)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	return confirmed(resp, d)
}

// maxMissing bounds what Missing tells at a time.
const maxMissing = 100

// Missing lists blobs that were damaged and set aside, and were not put again: some
// of them, if there are very many.
func (s *Dir) Missing() ([]snapshot.Digest, error) {
	names, err := os.ReadDir(filepath.Join(s.dir, "bad"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("damaged blobs: %w", err)
	}
	var out []snapshot.Digest
	for _, n := range names {
		d, err := snapshot.ParseDigest(n.Name())
		if err != nil {
			continue
		}
		if _, err := os.Lstat(s.path(d)); errors.Is(err, fs.ErrNotExist) {
			out = append(out, d)
		}
		if len(out) == maxMissing {
			break
		}
	}
	return out, nil
}

// ScrubStats tells what a Scrub read.
type ScrubStats struct {
	Blobs, Damaged int
	Bytes          int64
}

// Scrub checks every blob once, at most rate bytes per second over time (0: as fast
// as it goes), beginning with the shard from. damaged is told of each that was set
// aside. A blob that comes meanwhile may be left out, one that goes is no error.
func (s *Dir) Scrub(ctx context.Context, from byte, rate int64, damaged func(d snapshot.Digest, err error)) (ScrubStats, error) {
	var st ScrubStats
	one := func(d snapshot.Digest, size int64) error {
		err := s.Check(ctx, d)
		var bad *snapshot.CorruptError
		switch {
		case errors.As(err, &bad):
			st.Damaged++
			damaged(d, err)
		case errors.Is(err, snapshot.ErrNotFound):
			return nil
		case err != nil:
			return err
		}
		st.Blobs++
		st.Bytes += size
		if rate <= 0 {
			return nil
		}
		return pause.For(ctx, time.Duration(float64(size)/float64(rate)*float64(time.Second)))
	}
	for i := range s.shards {
		if err := s.each(ctx, from+byte(i), one); err != nil {
			return st, fmt.Errorf("scrub: %w", err)
		}
	}
	return st, nil
}
