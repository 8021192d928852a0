package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// Tries of a push, and how many blobs go at a time.
const (
	pushTries   = 6
	pushWorkers = 4
)

// PushOptions says what is pushed where.
type PushOptions struct {
	Source Source
	Blobs  blob.Store
	// Missing, if set, is told of what goes, and Sent counts bytes as they go.
	Missing func(bytes int64)
	Sent    *atomic.Int64
}

// Push makes o.Blobs have all of blobs and returns how many bytes it lacked. The
// last of blobs is sent when the others are there: who finds an index finds what
// it names. What breaks is tried again for about half a minute.
func Push(ctx context.Context, o PushOptions, blobs []Blob) (sent int64, err error) {
	p := pushing{o: o, backoff: backoff{pause.Backoff{First: 200 * time.Millisecond, Most: 10 * time.Second, Rand: rand.Reader}}}
	if p.o.Sent == nil {
		p.o.Sent = new(atomic.Int64)
	}
	if len(blobs) == 0 {
		return 0, nil
	}
	last := len(blobs) - 1
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pushWorkers)
	for _, b := range blobs[:last] {
		g.Go(func() error { return p.one(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return p.sent.Load(), err
	}
	err = p.one(ctx, blobs[last])
	return p.sent.Load(), err
}

// pushing is a Push under way.
type pushing struct {
	o       PushOptions
	backoff backoff
	sent    atomic.Int64
}

func (p *pushing) one(ctx context.Context, b Blob) error {
	for try := 1; ; try++ {
		err := p.try(ctx, b)
		var local *localError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case permanent(err), errors.As(err, &local), try == pushTries:
			return fmt.Errorf("push: %w", err)
		}
		if err := pause.For(ctx, p.backoff.after(try, err)); err != nil {
			return err
		}
	}
}

func (p *pushing) try(ctx context.Context, b Blob) error {
	have, err := p.o.Blobs.Stat(ctx, b.Digest)
	if err == nil && have == b.Bytes {
		return nil
	}
	if err != nil && !errors.Is(err, snapshot.ErrNotFound) {
		return err
	}
	if p.o.Missing != nil {
		p.o.Missing(b.Bytes)
	}
	var went atomic.Int64
	err = p.o.Blobs.Put(ctx, b.Digest, b.Bytes, func() (io.ReadCloser, error) {
		f, err := openBlob(ctx, p.o.Source, b)
		if err != nil {
			return nil, err
		}
		return &pushed{ReadCloser: f, went: &went, sent: p.o.Sent}, nil
	})
	if err != nil { // it goes once more
		p.o.Sent.Add(-went.Load())
		if p.o.Missing != nil {
			p.o.Missing(-b.Bytes)
		}
		return err
	}
	p.sent.Add(b.Bytes)
	return nil
}

// pushed counts what is read of a body.
type pushed struct {
	io.ReadCloser
	went, sent *atomic.Int64
}

func (r *pushed) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.went.Add(int64(n))
	r.sent.Add(int64(n))
	return n, err
}
