package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
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
