package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// work does one task after the other until ctx ends.
func (u *Uploader) work(ctx context.Context) {
	for ctx.Err() == nil {
		t, ok, wait, changed := u.next()
		if !ok {
			await(ctx, wait, changed)
			continue
		}
		err := u.do(ctx, t)
		if ctx.Err() == nil {
			u.judge(t, err)
		}
		u.end(t, err == nil)
	}
}

// await waits for a change, but at most for d unless d is 0.
func await(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	var timeout <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-timeout:
	case <-changed:
	case <-ctx.Done():
	}
}

// do does t once.
func (u *Uploader) do(ctx context.Context, t task) error {
	if t.blob >= 0 {
		return u.send(ctx, t.e.Blobs[t.blob])
	}
	fail.Point("transfer.confirmed")
	if err := u.o.Durable(ctx, t.e.ID); err != nil {
		return &localError{fmt.Errorf("tell that %s is durable: %w", t.e.ID, err)}
	}
	return nil
}

// localError is one that the blob store has no part in.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// silentError is one before which the blob store did not even say whether it has a blob.
type silentError struct{ err error }

func (e *silentError) Error() string { return e.err.Error() }
func (e *silentError) Unwrap() error { return e.err }

// errStandstill breaks off a request.
var errStandstill = errors.New("the blob store does not answer")

// send makes the blob store have b.
//
// Crash states, in order:
//  1. before the store committed b: it has nothing, or drops what it has of it.
//  2. committed, and the answer is lost with us: the next try finds b by its size.
//  3. answered: done is in memory only; after a restart as in 2.
func (u *Uploader) send(ctx context.Context, b Blob) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(u.o.Stall, func() { cancel(errStandstill) })
	defer stall.Stop()
	have, err := u.o.Blobs.Stat(ctx, b.Digest)
	if err == nil && have == b.Bytes {
		return nil
	}
	answered := err == nil || errors.Is(err, snapshot.ErrNotFound)
	if answered {
		// One of another size is the store's damage: its Put repairs it.
		stall.Reset(u.o.Stall)
		u.meter.begin()
		err = u.o.Blobs.Put(ctx, b.Digest, b.Bytes, func() (io.ReadCloser, error) { return u.open(ctx, b, stall) })
		u.meter.end()
		fail.Point("transfer.sent")
	}
	if err != nil && errors.Is(context.Cause(ctx), errStandstill) {
		err = fmt.Errorf("blob %s: %w for %s", b.Digest, errStandstill, u.o.Stall)
	}
	if err != nil && !answered {
		err = &silentError{err}
	}
	return err
}

// open opens what is to be sent.
func (u *Uploader) open(ctx context.Context, b Blob, stall *time.Timer) (io.ReadCloser, error) {
	f, err := openBlob(ctx, u.o.Source, b)
	if err != nil {
		return nil, err
	}
	return &outgoing{u: u, ctx: ctx, f: f, stall: stall}, nil
}

// openBlob opens a blob of the source, which must have it as long as it is said to be.
func openBlob(ctx context.Context, from Source, b Blob) (io.ReadSeekCloser, error) {
	f, size, err := from.OpenBlob(ctx, b.Digest)
	if err != nil {
		return nil, &localError{err}
	}
	if size != b.Bytes {
		f.Close() //nolint:errcheck // only read from
		return nil, &localError{&snapshot.CorruptError{
			What: "blob", Name: b.Digest.String(), Why: fmt.Sprintf("%d bytes long, expected %d", size, b.Bytes),
		}}
	}
	return f, nil
}

// outgoing is a body on its way: limited, measured and watched.
type outgoing struct {
	u      *Uploader
	ctx    context.Context // of this request
	f      io.ReadSeekCloser
	stall  *time.Timer
	closed atomic.Bool
}

// Read implements io.Reader.
func (o *outgoing) Read(p []byte) (int, error) {
	may, err := o.u.limit.take(o.ctx, len(p))
	if err != nil {
		return 0, err
	}
	if !o.closed.Load() {
		o.stall.Reset(o.u.o.Stall)
	}
	n, err := o.f.Read(p[:may])
	o.u.limit.giveBack(may - n)
	o.u.meter.add(int64(n))
	if err != nil && err != io.EOF { //nolint:errorlint // files give it unwrapped
		err = &localError{err}
	}
	return n, err
}

// Close implements io.Closer.
func (o *outgoing) Close() error {
	o.closed.Store(true)
	return o.f.Close()
}

// judge decides how long t's item, and perhaps everything, waits after err. The item
// always waits for itself as well: if it alone makes the store fail, the others must
// get their turn to find that out.
func (u *Uploader) judge(t task, err error) {
	var local *localError
	isLocal := errors.As(err, &local)
	// Found by nobody any more: the store dropped the layer, or the coordinator the
	// snapshot. From the blob store it can't come: a PUT creates.
	dropped := isLocal && errors.Is(err, snapshot.ErrNotFound)
	now := u.o.Now()

	u.mu.Lock()
	switch {
	case err == nil:
		t.e.fails = 0
		if t.blob >= 0 {
			u.fails, u.breaks = 0, 0
		}
	case dropped:
		u.dropLocked(t.e)
	default:
		t.e.fails++
		t.e.notBefore = now.Add(u.item.after(t.e.fails, nil))
		if !isLocal {
			u.breaks++
		}
		if !isLocal && (unavailable(err) || u.breaks > 2*u.o.Workers) {
			u.fails++
			u.paused = now.Add(u.overall.after(u.fails, err))
			if t.e.notBefore.Before(u.paused) {
				t.e.notBefore = u.paused
			}
		}
	}
	fails := max(t.e.fails, u.fails)
	u.mu.Unlock()

	if err == nil {
		return
	}
	u.o.Log.Warn("upload", "snapshot", t.e.ID, "failures", fails, "dropped", dropped, "error", err)
	if u.o.Failing != nil {
		u.o.Failing(t.e.ID, err, dropped)
	}
}

// unavailable reports whether another blob would fare no better: the store refuses us,
// says that it has trouble, or says nothing. A PUT that broke after it had answered is
// the network's whim, or that blob's; until too many break.
func unavailable(err error) bool {
	var s *blob.StatusError
	if errors.As(err, &s) {
		return s.Temporary() || s.Status == http.StatusUnauthorized || s.Status == http.StatusForbidden
	}
	var silent *silentError
	return errors.Is(err, blob.ErrFull) || errors.As(err, &silent)
}
