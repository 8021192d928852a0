package transfer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// ErrStalled says that a fetch made no progress for FetcherOptions.Stall.
var ErrStalled = errors.New("the fetch made no progress")

// errAttempt ends one connection that stands still.
var errAttempt = errors.New("no answer")

// progress is how much must come within the time-outs to count: a peer that drips a
// byte now and then does not keep a fetch alive. What is left of a blob counts too.
const progress = 16 << 10

// FetcherOptions says what a Fetcher needs. Blobs must be set.
type FetcherOptions struct {
	Blobs blob.Store
	// Stall is how long a reader tries, over all connections and waits, without
	// getting 16 KiB or the end; default 60 s. Time that the caller takes between
	// reads does not count.
	Stall time.Duration
	// Attempt is how long one connection may stand still until another is tried;
	// default a quarter of Stall.
	Attempt time.Duration
	Log     hclog.Logger
	Now     func() time.Time
	Rand    io.Reader // jitter of the back-off
}

// Fetcher reads blobs, and reads on where a connection broke.
type Fetcher struct {
	o       FetcherOptions
	backoff backoff
}

// NewFetcher returns a Fetcher.
func NewFetcher(o FetcherOptions) *Fetcher {
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Attempt == 0 {
		o.Attempt = o.Stall / 4
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	return &Fetcher{o: o, backoff: backoff{pause.Backoff{First: 100 * time.Millisecond, Most: 10 * time.Second, Rand: o.Rand}}}
}

// Open returns the n bytes of blob d at off, or all from off if n is negative.
// The reader ends with io.EOF after exactly these bytes, or with an error that
// stays: snapshot.ErrNotFound, *snapshot.CorruptError if the blob has no such range,
// a *blob.StatusError that will not change, ErrStalled, or ctx's cause. Anything else
// is tried again. ctx must live as long as the reader.
//
// Bytes are counted into the Counters of ctx as they arrive.
func (f *Fetcher) Open(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	r := &fetch{f: f, ctx: ctx, count: countersOf(ctx), digest: d, off: off, left: n}
	if n < 0 {
		err := r.try(func(ctx context.Context) error {
			size, err := f.o.Blobs.Stat(ctx, d)
			r.left = max(size-off, 0)
			return err
		})
		if err != nil {
			return nil, err
		}
		r.drop()
	}
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r, nil
}

// fetch is one open range. It is used by one goroutine at a time.
type fetch struct {
	f      *Fetcher
	ctx    context.Context // of Open; the reader lives within it
	count  *counters
	digest snapshot.Digest
	off    int64 // of the next byte
	left   int64

	body   io.ReadCloser // nil between connections
	conn   context.Context
	cancel context.CancelCauseFunc
	broken error // why there is no connection, not yet waited for
	// quiet is the time spent without progress, on this connection and in all; got
	// is what came in that time; fails counts failures in it.
	quiet, quietConn time.Duration
	got              int64
	fails            int
	err              error // final
}

// Read implements io.Reader.
func (r *fetch) Read(p []byte) (int, error) {
	if r.err == nil && r.left == 0 {
		r.drop()
		r.err = io.EOF
	}
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	for {
		if r.err = r.reconnect(); r.err != nil {
			return 0, r.err
		}
		n, err := r.readOnce(p)
		if err != nil {
			r.drop()
			r.broken = err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// reconnect waits as long as the last failure asks for, and opens what is left.
func (r *fetch) reconnect() error {
	if err := r.broken; err != nil {
		r.broken = nil
		if err := r.failed(err); err != nil {
			return err
		}
	}
	if r.body != nil {
		return nil
	}
	return r.connect()
}

// readOnce reads from the open connection, for as long as it may stand still.
func (r *fetch) readOnce(p []byte) (int, error) {
	if int64(len(p)) > r.left {
		p = p[:r.left]
	}
	start := r.f.o.Now()
	patience := min(r.f.o.Attempt-r.quietConn, r.f.o.Stall-r.quiet)
	cancel := r.cancel // the timer may be late
	t := time.AfterFunc(patience, func() { cancel(errAttempt) })
	n, err := r.body.Read(p)
	t.Stop()
	spent := r.f.o.Now().Sub(start)
	r.quiet += spent
	r.quietConn += spent
	r.count.add(int64(n))
	r.off += int64(n)
	r.left -= int64(n)
	if r.got += int64(n); r.got >= progress || r.left == 0 {
		r.got, r.quiet, r.quietConn, r.fails = 0, 0, 0, 0
	}
	if err == io.EOF { //nolint:errorlint // the store's contract: EOF only at the end
		if err = nil; r.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil && context.Cause(r.conn) == errAttempt { //nolint:errorlint // our own, never wrapped
		err = errAttempt
	}
	return n, err
}

// connect opens what is left. If that is nothing, whether there is such a blob must
// still be known.
func (r *fetch) connect() error {
	return r.try(func(ctx context.Context) (err error) {
		r.body, err = r.f.o.Blobs.Get(ctx, r.digest, r.off, r.left)
		return err
	})
}

// try calls what until it succeeds, is refused for good, or nothing moved for too long.
// After a success what's context lives on, for the body that it may have opened, until
// drop.
func (r *fetch) try(what func(context.Context) error) error {
	for {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		start := r.f.o.Now()
		ctx, cancel := context.WithCancelCause(r.ctx)
		t := time.AfterFunc(min(r.f.o.Attempt, r.f.o.Stall-r.quiet), func() { cancel(errAttempt) })
		err := what(ctx)
		t.Stop()
		if r.quiet += r.f.o.Now().Sub(start); err == nil {
			r.conn, r.cancel, r.quietConn = ctx, cancel, 0
			return nil
		}
		cancel(nil)
		if err := r.failed(err); err != nil {
			return err
		}
	}
}

// failed waits before the next attempt, or returns why there is none.
func (r *fetch) failed(err error) error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if permanent(err) {
		return err
	}
	r.fails++
	wait := r.f.backoff.after(r.fails, err)
	if r.quiet+wait >= r.f.o.Stall {
		return fmt.Errorf("blob %s at %d: %w in %s: %w", r.digest, r.off, ErrStalled, r.f.o.Stall, err)
	}
	r.f.o.Log.Debug("fetch broke off", "digest", r.digest, "offset", r.off, "left", r.left,
		"failures", r.fails, "retry_in", wait, "error", err)
	r.quiet += wait
	return pause.For(r.ctx, wait)
}

// drop ends the connection.
func (r *fetch) drop() {
	if r.body != nil {
		r.body.Close() //nolint:errcheck // only read from
		r.body = nil
	}
	if r.cancel != nil {
		r.cancel(nil)
		r.cancel = nil
	}
}

// Close implements io.Closer.
func (r *fetch) Close() error {
	r.drop()
	r.err = io.ErrClosedPipe
	return nil
}
