package transfer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
	"github.com/roost-ci/roost/transfer/transfertest"
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

// Packs side by side, the index after them, Durable after the index; in the order of
// the queue.
func TestUploadOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{delay: time.Second}
		d := &told{t: t, store: m, items: map[snapshot.ID]transfer.Item{}}
		u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable, Workers: 3})
		want := []snapshot.ID{"a", "b", "c"}
		for i, id := range want {
			it := src.add(uint64(i), id, 1000, 1001, 1002, 1003, 50)
			d.items[id] = it
			require.NoError(t, u.Enqueue(it))
			require.NoError(t, u.Enqueue(it)) // idempotent
		}
		m.setFail(func(digest snapshot.Digest) error {
			for _, it := range d.items {
				if digest != it.Blobs[4].Digest {
					continue
				}
				for _, b := range it.Blobs[:4] {
					if _, err := m.Stat(t.Context(), b.Digest); err != nil {
						t.Errorf("the index of %s is sent before its pack of %d bytes is there", it.ID, b.Bytes)
					}
				}
			}
			return nil
		})
		n, left := u.Pending()
		require.Equal(t, 3, n)
		require.EqualValues(t, 3*4056, left)
		stop := start(t, u)
		drain(t, u, time.Minute)
		stop()
		require.Equal(t, want, d.all())
		require.Len(t, m.log, 15)
		require.Equal(t, int64(3), m.most.Load())
	})
}

func TestUploadUrgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{delay: time.Second}
		d := &told{t: t, store: m}
		u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable, Workers: 1})
		for i, id := range []snapshot.ID{"a", "b", "c", "d"} {
			require.NoError(t, u.Enqueue(src.add(uint64(i), id, 10, 10)))
		}
		u.Urgent("d", "later", "c")
		u.Urgent("d")
		require.NoError(t, u.Enqueue(src.add(9, "later", 10, 10)))
		start(t, u)
		time.Sleep(500 * time.Millisecond) // d's first blob is on its way
		u.Urgent("b")
		drain(t, u, time.Minute)
		require.Equal(t, []snapshot.ID{"d", "c", "later", "b", "a"}, d.all())
	})
}

// What is there already is not sent; a blob of two items is sent once.
func TestUploadSendsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{delay: time.Second}
		d := &told{t: t, store: m}
		u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable, Workers: 8})
		a := src.add(1, "a", 10, 11, 12)
		b := a
		b.ID = "b"
		require.NoError(t, u.Enqueue(a))
		require.NoError(t, u.Enqueue(b))
		require.NoError(t, u.Enqueue(transfer.Item{ID: "empty"}))
		start(t, u)
		drain(t, u, time.Minute)
		require.Len(t, m.log, 3)
		require.ElementsMatch(t, []snapshot.ID{"a", "b", "empty"}, d.all())
		require.NoError(t, u.Enqueue(a)) // again, as after a restart
		drain(t, u, time.Minute)
		require.Len(t, m.log, 3)
		require.Len(t, d.all(), 4)
	})
}

// A blob that is there with another size is damaged there; it is sent again.
func TestUploadRepairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := source{}
		it := src.add(1, "a", 10, 20)
		m := &memory{blobs: map[snapshot.Digest][]byte{it.Blobs[0].Digest: make([]byte, 9)}}
		d := &told{t: t, store: m, items: map[snapshot.ID]transfer.Item{"a": it}}
		u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable})
		require.NoError(t, u.Enqueue(it))
		start(t, u)
		drain(t, u, time.Minute)
		require.Len(t, m.log, 2)
		require.Len(t, d.all(), 1)
	})
}

// While the store is down it is asked ever less often, by one worker at a time, and
// when it is back everything goes through.
func TestUploadOutage(t *testing.T) {
	t.Run("no answer", func(t *testing.T) { testOutage(t, true) })
	t.Run("every PUT breaks", func(t *testing.T) { testOutage(t, false) })
}

func testOutage(t *testing.T, silent bool) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{down: silent}
		d := &told{t: t, store: m}
		var asked, failing atomic.Int64
		down := errors.New("connection refused")
		m.setFail(func(snapshot.Digest) error {
			asked.Add(1)
			m.enter()
			defer m.leave()
			time.Sleep(time.Second)
			return down
		})
		u := transfer.NewUploader(transfer.UploaderOptions{
			Source: src, Blobs: m, Durable: d.durable, Workers: 8,
			Failing: func(_ snapshot.ID, err error, dropped bool) {
				failing.Add(1)
				if dropped || !errors.Is(err, down) {
					t.Errorf("Failing(%v, %v)", err, dropped)
				}
			},
		})
		for i := range 100 {
			require.NoError(t, u.Enqueue(src.add(uint64(i), snapshot.ID(fmt.Sprint(i)), 10, 10)))
		}
		stop := start(t, u)
		time.Sleep(10 * time.Minute)
		require.Equal(t, int64(8), m.most.Swap(0)) // before anybody knew
		time.Sleep(time.Hour)
		synctest.Wait()
		require.Equal(t, int64(1), m.most.Load())
		n := asked.Load()
		require.InDelta(t, n, failing.Load(), 1) // one may be on its way
		require.Greater(t, n, int64(100))        // at least each 32 s
		require.Less(t, n, int64(300))           // and not much more often than each 16 s
		m.setFail(nil)
		drain(t, u, 2*time.Minute)
		stop()
		require.Len(t, d.all(), 100)
	})
}

// An item that the store always chokes on does not hold up the others, neither in
// order nor in time.
func TestUploadPoison(t *testing.T) {
	for _, poison := range []error{
		errors.New("connection reset"),
		&blob.StatusError{Status: http.StatusInternalServerError},
		&blob.StatusError{Status: http.StatusRequestEntityTooLarge},
		&snapshot.CorruptError{What: "blob"},
	} {
		t.Run(poison.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, m := source{}, &memory{delay: 10 * time.Millisecond}
				d := &told{t: t, store: m}
				bad := src.add(1000, "bad", 10, 10)
				m.setFail(func(d snapshot.Digest) error {
					if d == bad.Blobs[0].Digest {
						return poison
					}
					return nil
				})
				u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable, Workers: 2})
				require.NoError(t, u.Enqueue(bad))
				for i := range 200 {
					require.NoError(t, u.Enqueue(src.add(uint64(i), snapshot.ID(fmt.Sprint(i)), 10, 10)))
				}
				begin := time.Now()
				stop := start(t, u)
				for len(d.all()) < 200 {
					time.Sleep(10 * time.Millisecond)
				}
				require.Less(t, time.Since(begin), 5*time.Second) // 2 s without it
				m.setFail(nil)
				drain(t, u, 2*time.Minute)
				stop()
				require.Contains(t, d.all(), snapshot.ID("bad"))
			})
		})
	}
}

func TestUploadRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{}
		d := &told{t: t, store: m}
		begin := time.Now()
		m.setFail(func(snapshot.Digest) error {
			if time.Since(begin) == 0 {
				return &blob.StatusError{Status: http.StatusServiceUnavailable, RetryAfter: 100 * time.Second}
			}
			return nil
		})
		u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable})
		require.NoError(t, u.Enqueue(src.add(1, "a", 10)))
		start(t, u)
		drain(t, u, 10*time.Minute)
		require.GreaterOrEqual(t, time.Since(begin), 100*time.Second)
		require.Less(t, time.Since(begin), 130*time.Second)
	})
}

// Without its blobs an item has no future; with a coordinator that is away it has.
func TestUploadLocalTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, m := source{}, &memory{}
		tries := 0
		d := &told{t: t, store: m, fail: func(id snapshot.ID) error {
			if id == "unwanted" {
				return fmt.Errorf("coordinator: %w", snapshot.ErrNotFound)
			}
			if tries++; tries < 5 {
				return errors.New("coordinator is away")
			}
			return nil
		}}
		var dropped []snapshot.ID
		u := transfer.NewUploader(transfer.UploaderOptions{
			Source: src, Blobs: m, Durable: d.durable, Workers: 1,
			Failing: func(id snapshot.ID, err error, gone bool) {
				if id == "short" && !strings.Contains(err.Error(), "10 bytes long, expected 11") {
					t.Error(err)
				}
				if gone {
					dropped = append(dropped, id)
				}
			},
		})
		gone := src.add(1, "gone", 10, 20)
		delete(src, gone.Blobs[0].Digest)
		short := src.add(2, "short", 10, 20)
		short.Blobs[0].Bytes++ // the row and the file differ
		require.NoError(t, u.Enqueue(gone))
		require.NoError(t, u.Enqueue(src.add(3, "unwanted", 10, 20)))
		require.NoError(t, u.Enqueue(src.add(4, "fine", 10, 20)))
		stop := start(t, u)
		drain(t, u, time.Hour)
		require.NoError(t, u.Enqueue(short))
		time.Sleep(time.Hour)
		n, left := u.Pending()
		require.Equal(t, 1, n)
		require.EqualValues(t, 31, left)
		stop()
		require.Equal(t, []snapshot.ID{"fine"}, d.all())
		require.Equal(t, []snapshot.ID{"gone", "unwanted"}, dropped)
	})
}

func TestUploadQueueIsBounded(t *testing.T) {
	src, m := source{}, &memory{}
	u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, MaxQ: 2})
	require.NoError(t, u.Enqueue(src.add(1, "a", 10)))
	require.NoError(t, u.Enqueue(src.add(2, "b", 10)))
	require.ErrorIs(t, u.Enqueue(src.add(3, "c", 10)), transfer.ErrQueueFull)
	require.NoError(t, u.Enqueue(src.add(1, "a", 10)))
}

// A rate is kept over all workers, however slow, and never looks like a stall.
func TestUploadRate(t *testing.T) {
	for _, rate := range []int64{1, 1000, 500_000} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src, m := source{}, &memory{}
				d := &told{t: t, store: m}
				u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: m, Durable: d.durable, Rate: rate})
				per := int(rate * 25)
				require.NoError(t, u.Enqueue(src.add(1, "a", per, per, per, per)))
				begin := time.Now()
				stop := start(t, u)
				drain(t, u, time.Hour)
				stop()
				require.InDelta(t, 100, time.Since(begin).Seconds(), 2)
				require.InEpsilon(t, rate, u.Rate(), 0.05)
			})
		})
	}
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

func TestUploadBreaksOffAStandstill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := source{}
		first := make(chan time.Duration, 100)
		begin := time.Now()
		u := transfer.NewUploader(transfer.UploaderOptions{
			Source: src, Blobs: &stuck{}, Durable: func(context.Context, snapshot.ID) error { return nil },
			Failing: func(_ snapshot.ID, err error, _ bool) {
				if !strings.Contains(err.Error(), "does not answer") {
					t.Error(err)
				}
				first <- time.Since(begin)
			},
		})
		require.NoError(t, u.Enqueue(src.add(1, "a", 10, 10)))
		stop := start(t, u)
		require.Equal(t, time.Minute, <-first)
		stop()
	})
}

// Run ends with its context though the server hangs, and what was not sent stays
// queued for the next Run.
func TestUploadStopsAndGoesOn(t *testing.T) {
	dir := openDir(t)
	srv := transfertest.NewServer(t, dir)
	src := source{}
	d := &told{t: t, store: dir}
	u := transfer.NewUploader(transfer.UploaderOptions{Source: src, Blobs: client(t, srv.Blobs()), Durable: d.durable})
	require.NoError(t, u.Enqueue(src.add(1, "a", 1<<20, 2<<20, 1000)))
	srv.Always(func(*http.Request) transfertest.Act { return transfertest.Hang() })
	stop := start(t, u)
	time.Sleep(100 * time.Millisecond)
	begin := time.Now()
	stop()
	require.Less(t, time.Since(begin), 30*time.Second)
	n, left := u.Pending()
	require.Equal(t, 1, n)
	require.EqualValues(t, 3<<20+1000, left)

	srv.Always(nil)
	start(t, u)
	drain(t, u, 20*time.Second)
	require.Equal(t, []snapshot.ID{"a"}, d.all())
}

// Each kind of trouble at each of the first requests of an upload over real HTTP: in
// the end everything is there, byte for byte, and was told once.
func TestUploadThroughTrouble(t *testing.T) {
	troubles := map[string]transfertest.Act{
		"500":          transfertest.Status(500, 0),
		"503":          transfertest.Status(503, 1),
		"401":          transfertest.Status(401, 0),
		"507":          transfertest.Status(507, 0),
		"302":          transfertest.Status(302, 0),
		"404":          transfertest.Status(404, 0),
		"412":          transfertest.Status(412, 0),
		"hang":         transfertest.Hang(),
		"cut at 0":     transfertest.CutUpload(0),
		"cut at 1":     transfertest.CutUpload(1),
		"cut at 70000": transfertest.CutUpload(70_000),
		"reply lost":   transfertest.LoseReply(),
		"wrong etag":   transfertest.Header("ETag", `"`+strings.Repeat("ab", 32)+`"`),
		"wrong length": transfertest.Header("Content-Length", "0"),
	}
	for name, act := range troubles {
		for at := range 4 { // HEAD, PUT, HEAD, PUT
			t.Run(fmt.Sprintf("%s at %d", name, at), func(t *testing.T) {
				t.Parallel()
				dir := openDir(t)
				srv := transfertest.NewServer(t, dir)
				src := source{}
				it := src.add(1, "a", 300_000, 500)
				d := &told{t: t, store: dir, items: map[snapshot.ID]transfer.Item{"a": it}}
				u := transfer.NewUploader(transfer.UploaderOptions{
					Source: src, Blobs: client(t, srv.Blobs()), Durable: d.durable, Workers: 1, Stall: 500 * time.Millisecond, Backoff: 20 * time.Millisecond,
				})
				script := make([]transfertest.Act, at+1)
				script[at] = act
				srv.Script(script...)
				require.NoError(t, u.Enqueue(it))
				stop := start(t, u)
				drain(t, u, 20*time.Second)
				stop()
				require.Equal(t, []snapshot.ID{"a"}, d.all())
				for _, b := range it.Blobs {
					got, err := blobtest.Get(t.Context(), dir, b.Digest, 0, -1)
					require.NoError(t, err)
					require.True(t, bytes.Equal(src[b.Digest], got))
				}
			})
		}
	}
}

// A source that breaks in the middle is our trouble, not the store's: others go on.
func TestUploadFromABrokenDisk(t *testing.T) {
	dir := openDir(t)
	srv := transfertest.NewServer(t, dir)
	src := brokenDisk{source{}, map[snapshot.Digest]bool{}}
	bad := src.add(1, "bad", 300_000, 10)
	src.bad[bad.Blobs[0].Digest] = true
	d := &told{t: t, store: dir}
	errs := make(chan error, 100)
	u := transfer.NewUploader(transfer.UploaderOptions{
		Source: src, Blobs: client(t, srv.Blobs()), Durable: d.durable, Workers: 1,
		Failing: func(_ snapshot.ID, err error, _ bool) { errs <- err },
	})
	require.NoError(t, u.Enqueue(bad))
	for i := range 20 {
		require.NoError(t, u.Enqueue(src.add(uint64(2+i), snapshot.ID(fmt.Sprint(i)), 10, 10)))
	}
	stop := start(t, u)
	require.Eventually(t, func() bool { return len(d.all()) == 20 }, time.Minute, 10*time.Millisecond)
	stop()
	require.ErrorIs(t, <-errs, errDisk)
}

var errDisk = errors.New("input/output error")

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
