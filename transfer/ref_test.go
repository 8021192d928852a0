package transfer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

func TestRef(t *testing.T) {
	key := []byte("a key of thirty-two bytes, secret")
	id := snapshot.ID(strings.Repeat("a", 26))
	r := Ref{Snapshot: id, Index: snapshot.Digest{1}, IndexBytes: 5, Manifest: snapshot.Digest{2}, Entries: 7}
	b, err := r.Encode(key)
	require.NoError(t, err)
	got, err := ParseRef(id, b, key)
	require.NoError(t, err)
	r.Version, r.Parents, r.MAC = 1, []snapshot.ID{}, got.MAC
	require.Equal(t, r, got)
	_, err = ParseRef(snapshot.ID(strings.Repeat("b", 26)), b, key)
	require.Error(t, err)
	for i := range b {
		for _, bit := range []byte{1, 4, 32, 128} {
			bad := bytes.Clone(b)
			bad[i] ^= bit
			if _, err := ParseRef(id, bad, key); err == nil {
				require.Equal(t, bytes.TrimSpace(b), bytes.TrimSpace(bad), "byte %d", i)
			}
		}
	}
	for _, evil := range []snapshot.ID{"../../../../../../../../etc", "x"} {
		bad := r
		bad.Base = evil
		b, err := bad.Encode(key)
		require.NoError(t, err)
		_, err = ParseRef(id, b, key)
		require.Error(t, err, "who has the key may still have made a mistake")
	}
}

// flaky is a blob store that fails at first.
type flaky struct {
	blob.Store
	left atomic.Int32
	err  error
}

func (f *flaky) Put(ctx context.Context, d snapshot.Digest, n int64, open func() (io.ReadCloser, error)) error {
	if f.left.Add(-1) >= 0 {
		r, err := open()
		if err != nil {
			return err
		}
		io.CopyN(io.Discard, r, n/2)
		r.Close()
		return f.err
	}
	return f.Store.Put(ctx, d, n, open)
}

// held is a Source in memory.
type held map[snapshot.Digest][]byte

func (h held) OpenBlob(_ context.Context, d snapshot.Digest) (io.ReadSeekCloser, int64, error) {
	b, ok := h[d]
	if !ok {
		return nil, 0, snapshot.ErrNotFound
	}
	return seekable{bytes.NewReader(b)}, int64(len(b)), nil
}

type seekable struct{ *bytes.Reader }

func (seekable) Close() error { return nil }

func TestPush(t *testing.T) {
	src := held{}
	var blobs []Blob
	for i := range 9 {
		b, d := blobtest.Random(uint64(i), 1000+i)
		src[d] = b
		blobs = append(blobs, Blob{Digest: d, Bytes: int64(len(b))})
	}
	open := func(t *testing.T) *blob.Dir {
		d, err := blob.OpenDir(t.TempDir(), blob.DirOptions{})
		require.NoError(t, err)
		t.Cleanup(func() { d.Close() })
		return d
	}
	t.Run("what breaks goes again", func(t *testing.T) {
		dir := open(t)
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{Store: dir, err: errors.New("connection reset")}
			f.left.Store(5)
			var sent, missing atomic.Int64
			n, err := Push(t.Context(), PushOptions{Source: src, Blobs: f, Sent: &sent, Missing: func(n int64) { missing.Add(n) }}, blobs)
			require.NoError(t, err)
			require.EqualValues(t, 9036, n)
			require.Equal(t, n, sent.Load())
			require.Equal(t, n, missing.Load())
			n, err = Push(t.Context(), PushOptions{Source: src, Blobs: f}, blobs)
			require.NoError(t, err)
			require.Zero(t, n)
		})
	})
	t.Run("the index goes last", func(t *testing.T) {
		dir := open(t)
		synctest.Test(t, func(t *testing.T) {
			f := &flaky{Store: dir, err: &blob.StatusError{Status: 403}}
			f.left.Store(1)
			_, err := Push(t.Context(), PushOptions{Source: src, Blobs: f}, blobs)
			var status *blob.StatusError
			require.ErrorAs(t, err, &status)
			_, err = dir.Stat(t.Context(), blobs[8].Digest)
			require.ErrorIs(t, err, snapshot.ErrNotFound)
		})
	})
	t.Run("what is not here", func(t *testing.T) {
		dir := open(t)
		_, d := blobtest.Random(77, 10)
		_, err := Push(t.Context(), PushOptions{Source: src, Blobs: dir}, append([]Blob{{Digest: d, Bytes: 10}}, blobs...))
		require.ErrorIs(t, err, snapshot.ErrNotFound)
	})
}
