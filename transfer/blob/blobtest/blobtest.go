// Package blobtest is the suite that every blob.Store passes.
package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// Random returns n bytes that depend on seed, and their digest.
func Random(seed uint64, n int) ([]byte, snapshot.Digest) {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b) //nolint:errcheck // never fails
	return b, sha256.Sum256(b)
}

// Bytes returns what Put wants.
func Bytes(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

// Put stores b and returns its digest.
func Put(t testing.TB, s blob.Store, b []byte) snapshot.Digest {
	t.Helper()
	d := snapshot.Digest(sha256.Sum256(b))
	require.NoError(t, s.Put(t.Context(), d, int64(len(b)), Bytes(b)))
	return d
}

// Get reads a range.
func Get(ctx context.Context, s blob.Store, d snapshot.Digest, off, n int64) ([]byte, error) {
	r, err := s.Get(ctx, d, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

// Run runs the suite. open gives an empty store.
func Run(t *testing.T, open func(t *testing.T) blob.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, blob.Store)
	}{
		{"absent", testAbsent},
		{"sizes", testSizes},
		{"ranges", testRanges},
		{"put twice does not read", testPutTwice},
		{"wrong bytes are refused", testWrongBytes},
		{"a broken body leaves nothing", testBrokenBody},
		{"same blob from many", testConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func testAbsent(t *testing.T, s blob.Store) {
	_, d := Random(1, 10)
	_, err := s.Stat(t.Context(), d)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	for _, n := range []int64{-1, 0, 1} {
		_, err = s.Get(t.Context(), d, 0, n)
		require.ErrorIs(t, err, snapshot.ErrNotFound, "n=%d", n)
	}
}

func testSizes(t *testing.T, s blob.Store) {
	for _, n := range []int{0, 1, 511, 4096, 1 << 20, 5<<20 + 13} {
		b, d := Random(2, n)
		Put(t, s, b)
		size, err := s.Stat(t.Context(), d)
		require.NoError(t, err)
		require.EqualValues(t, n, size)
		got, err := Get(t.Context(), s, d, 0, -1)
		require.NoError(t, err)
		require.True(t, bytes.Equal(b, got), "%d bytes differ", n)
	}
}

func testRanges(t *testing.T, s blob.Store) {
	const size = 100_000
	b, _ := Random(3, size)
	d := Put(t, s, b)
	for _, r := range []struct{ off, n int64 }{
		{0, 0},
		{0, 1},
		{1, 1},
		{0, size},
		{0, -1},
		{1, -1},
		{size - 1, 1},
		{size - 1, -1},
		{size, 0},
		{size, -1},
		{777, 50_000},
	} {
		want := b[r.off:]
		if r.n >= 0 {
			want = want[:r.n]
		}
		got, err := Get(t.Context(), s, d, r.off, r.n)
		require.NoError(t, err, "%+v", r)
		require.True(t, bytes.Equal(want, got), "%+v: got %d bytes, want %d", r, len(got), len(want))
	}
	for _, r := range []struct{ off, n int64 }{
		{0, size + 1},
		{1, size},
		{size, 1},
		{size + 1, 0},
		{size + 1, -1},
		{size + 1, 1},
		{-1, 1},
		{-1, -1},
		{1, 1<<63 - 1},
		{1<<63 - 1, 1},
	} {
		_, err := Get(t.Context(), s, d, r.off, r.n)
		var c *snapshot.CorruptError
		require.ErrorAs(t, err, &c, "%+v", r)
	}
}

func testPutTwice(t *testing.T, s blob.Store) {
	b, _ := Random(4, 3<<20)
	d := Put(t, s, b)
	var opened atomic.Bool
	err := s.Put(t.Context(), d, int64(len(b)), func() (io.ReadCloser, error) {
		opened.Store(true)
		return nil, errors.New("must not be opened")
	})
	require.NoError(t, err)
	require.False(t, opened.Load())
}

func testWrongBytes(t *testing.T, s blob.Store) {
	b, d := Random(5, 70_000)
	flipped := bytes.Clone(b)
	flipped[len(b)/2] ^= 1
	other, _ := Random(6, 70_000)
	for name, body := range map[string][]byte{"one bit": flipped, "another blob": other, "empty": {}} {
		err := s.Put(t.Context(), d, int64(len(body)), Bytes(body))
		var c *snapshot.CorruptError
		require.ErrorAs(t, err, &c, name)
		_, err = s.Stat(t.Context(), d)
		require.ErrorIs(t, err, snapshot.ErrNotFound, name)
	}
	// And the name is not spoiled by that.
	Put(t, s, b)
}

func testBrokenBody(t *testing.T, s blob.Store) {
	b, d := Random(7, 300_000)
	broken := errors.New("the disk broke")
	for name, body := range map[string]io.Reader{
		"ends early": bytes.NewReader(b[:len(b)-1]),
		"fails":      io.MultiReader(bytes.NewReader(b[:len(b)/2]), iotest.ErrReader(broken)),
	} {
		err := s.Put(t.Context(), d, int64(len(b)), func() (io.ReadCloser, error) { return io.NopCloser(body), nil })
		require.Error(t, err, name)
		_, err = s.Stat(t.Context(), d)
		require.ErrorIs(t, err, snapshot.ErrNotFound, name)
	}
	_, d2 := Random(8, 10)
	err := s.Put(t.Context(), d2, 10, func() (io.ReadCloser, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
	_, err = s.Stat(t.Context(), d2)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
}

func testConcurrent(t *testing.T, s blob.Store) {
	b, d := Random(9, 1<<20)
	var wg sync.WaitGroup
	errs := make(chan error, 32)
	for i := range 16 {
		wg.Go(func() { errs <- s.Put(t.Context(), d, int64(len(b)), Bytes(b)) })
		wg.Go(func() {
			got, err := Get(t.Context(), s, d, 0, -1)
			if err == nil && !bytes.Equal(got, b) {
				err = fmt.Errorf("reader %d got %d bytes that are not the blob", i, len(got))
			}
			if errors.Is(err, snapshot.ErrNotFound) {
				err = nil
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}
