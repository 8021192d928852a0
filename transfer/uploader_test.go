package transfer_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/transfertest"
)

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

var errDisk = errors.New("input/output error")
