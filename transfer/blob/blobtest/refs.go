package blobtest

import (
	"bytes"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
)

// RunRefs runs the suite that every blob.Refs passes. open gives an empty store.
func RunRefs(t *testing.T, open func(t *testing.T) blob.Refs) {
	id := func(c string) snapshot.ID { return snapshot.ID(strings.Repeat(c, 26)) }
	t.Run("put and get", func(t *testing.T) {
		s := open(t)
		_, err := s.GetRef(t.Context(), id("a"))
		require.ErrorIs(t, err, snapshot.ErrNotFound)
		for _, b := range [][]byte{[]byte("one"), bytes.Repeat([]byte{0, 255, 10}, blob.MaxRefBytes/3)} {
			name := id(string(rune('b' + len(b)%20)))
			require.NoError(t, s.PutRef(t.Context(), name, b))
			got, err := s.GetRef(t.Context(), name)
			require.NoError(t, err)
			require.Equal(t, b, got)
			require.NoError(t, s.PutRef(t.Context(), name, b), "again")
		}
	})
	t.Run("never another", func(t *testing.T) {
		s := open(t)
		require.NoError(t, s.PutRef(t.Context(), id("a"), []byte("one")))
		var corrupt *snapshot.CorruptError
		require.ErrorAs(t, s.PutRef(t.Context(), id("a"), []byte("two")), &corrupt)
		got, err := s.GetRef(t.Context(), id("a"))
		require.NoError(t, err)
		require.Equal(t, "one", string(got))
	})
	t.Run("bad names and sizes", func(t *testing.T) {
		s := open(t)
		for _, name := range []snapshot.ID{"", "x", "../../../../../../../../etc", snapshot.ID(strings.Repeat("A", 26))} {
			require.Error(t, s.PutRef(t.Context(), name, []byte("x")), name)
			_, err := s.GetRef(t.Context(), name)
			require.Error(t, err, name)
		}
		require.Error(t, s.PutRef(t.Context(), id("a"), make([]byte, blob.MaxRefBytes+1)))
	})
	t.Run("many at a time", func(t *testing.T) {
		s := open(t)
		errs := make([]error, 8)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = s.PutRef(t.Context(), id("c"), []byte("same")) })
		}
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
	})
}
