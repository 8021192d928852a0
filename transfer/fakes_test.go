package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

// source is a store of blobs in memory.
type source map[snapshot.Digest][]byte

func (s source) OpenBlob(_ context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error) {
	b, ok := s[d]
	if !ok {
		return nil, 0, fmt.Errorf("blob %s: %w", d, snapshot.ErrNotFound)
	}
	return nopSeekCloser{bytes.NewReader(b)}, int64(len(b)), nil
}

type nopSeekCloser struct{ io.ReadSeeker }

func (nopSeekCloser) Close() error { return nil }

// add puts blobs of these sizes into s and returns an item of them.
func (s source) add(seed uint64, id snapshot.ID, sizes ...int) transfer.Item {
	it := transfer.Item{ID: id}
	for i, n := range sizes {
		b, d := blobtest.Random(seed*1000+uint64(i), n)
		s[d] = b
		it.Blobs = append(it.Blobs, transfer.Blob{Digest: d, Bytes: int64(n)})
	}
	return it
}

// memory is a Store in memory that records. fail, if set, decides on each Put.
type memory struct {
	mu    sync.Mutex
	blobs map[snapshot.Digest][]byte
	log   []string
	fail  func(d snapshot.Digest) error
	down  bool // Stat fails as well
	delay time.Duration

	busy, most atomic.Int64
}

func (m *memory) enter() {
	n := m.busy.Add(1)
	for most := m.most.Load(); n > most && !m.most.CompareAndSwap(most, n); most = m.most.Load() {
	}
}

func (m *memory) leave() { m.busy.Add(-1) }

func (m *memory) Put(ctx context.Context, d snapshot.Digest, size int64, open func() (io.ReadCloser, error)) error {
	m.mu.Lock()
	m.log = append(m.log, "put "+d.String()[:8])
	fail := m.fail
	m.mu.Unlock()
	if fail != nil {
		if err := fail(d); err != nil {
			return err
		}
	}
	m.enter()
	defer m.leave()
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close() //nolint:errcheck // only read from
	b, err := io.ReadAll(rc)
	if err != nil {
		return err
	}
	if int64(len(b)) != size || snapshot.Digest(sha256.Sum256(b)) != d {
		return &snapshot.CorruptError{What: "blob", Name: d.String(), Why: "does not hash to its name"}
	}
	select {
	case <-time.After(m.delay):
	case <-ctx.Done():
		return ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[snapshot.Digest][]byte{}
	}
	m.blobs[d] = b
	return nil
}

func (m *memory) Stat(_ context.Context, d snapshot.Digest) (int64, error) {
	m.mu.Lock()
	down, fail := m.down, m.fail
	m.mu.Unlock()
	if down && fail != nil {
		return 0, fail(d)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.blobs[d]
	if !ok {
		return 0, snapshot.ErrNotFound
	}
	return int64(len(b)), nil
}

func (m *memory) Get(context.Context, snapshot.Digest, int64, int64) (io.ReadCloser, error) {
	return nil, errors.ErrUnsupported
}

func (m *memory) setFail(f func(snapshot.Digest) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = f
}

// told records whom Durable was told about, and checks the promise each time.
type told struct {
	t     *testing.T
	store blob.Store
	items map[snapshot.ID]transfer.Item
	fail  func(snapshot.ID) error

	mu  sync.Mutex
	ids []snapshot.ID
}

func (d *told) durable(ctx context.Context, id snapshot.ID) error {
	for _, b := range d.items[id].Blobs {
		size, err := d.store.Stat(ctx, b.Digest)
		if err != nil || size != b.Bytes {
			d.t.Errorf("%s is said to be durable, but blob %s is not there: %v", id, b.Digest, err)
		}
	}
	if d.fail != nil {
		if err := d.fail(id); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids = append(d.ids, id)
	return nil
}

func (d *told) all() []snapshot.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]snapshot.ID(nil), d.ids...)
}

// start runs u until the returned function is called.
func start(t *testing.T, u *transfer.Uploader) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- u.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			require.NoError(t, <-done)
		})
	}
	t.Cleanup(stop)
	return stop
}

func drain(t *testing.T, u *transfer.Uploader, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	require.NoError(t, u.Drain(ctx))
	n, left := u.Pending()
	require.Zero(t, n)
	require.Zero(t, left)
}

// stuck is a Store whose Put never answers.
type stuck struct{ memory }

func (s *stuck) Put(ctx context.Context, _ snapshot.Digest, _ int64, open func() (io.ReadCloser, error)) error {
	rc, err := open()
	if err != nil {
		return err
	}
	defer rc.Close()            //nolint:errcheck // only read from
	io.CopyN(io.Discard, rc, 5) //nolint:errcheck // whatever comes
	<-ctx.Done()
	return ctx.Err()
}

type brokenDisk struct {
	source
	bad map[snapshot.Digest]bool
}

func (s brokenDisk) OpenBlob(ctx context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error) {
	f, n, err := s.source.OpenBlob(ctx, d)
	if s.bad[d] {
		f = brokenFile{f}
	}
	return f, n, err
}

type brokenFile struct{ io.ReadSeekCloser }

func (f brokenFile) Read(p []byte) (int, error) {
	n, err := f.ReadSeekCloser.Read(p[:min(len(p), 100_000)])
	if at, _ := f.Seek(0, io.SeekCurrent); at > 100_000 {
		return 0, errDisk
	}
	return n, err
}
