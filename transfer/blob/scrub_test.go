package blob_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

// A blob that rots is found, set aside, asked for, and taken again from whoever has it.
func TestScrub(t *testing.T) {
	dir := t.TempDir()
	s := openDir(t, dir, blob.DirOptions{})
	srv := httptest.NewServer(blob.Handler(s, blob.HandlerOptions{}))
	defer srv.Close()
	client := blob.NewHTTP(srv.URL, nil, http.DefaultClient)
	data := map[snapshot.Digest][]byte{}
	var all []snapshot.Digest
	for i := range 12 {
		b, d := blobtest.Random(uint64(i), 10_000)
		blobtest.Put(t, s, b)
		data[d] = b
		all = append(all, d)
	}
	fail := func(d snapshot.Digest, err error) { t.Errorf("%s: %v", d, err) }
	began := time.Now()
	st, err := s.Scrub(t.Context(), 200, 1_000_000, fail)
	require.NoError(t, err)
	require.Equal(t, blob.ScrubStats{Blobs: 12, Bytes: 120_000}, st)
	require.GreaterOrEqual(t, time.Since(began), 100*time.Millisecond)
	missing, err := s.Missing()
	require.NoError(t, err)
	require.Empty(t, missing)

	rot := func(d snapshot.Digest) {
		b := append([]byte(nil), data[d]...)
		b[5000] ^= 1
		require.NoError(t, os.WriteFile(file(dir, d), b, 0o600))
	}
	require.NoError(t, client.Check(t.Context(), all[3]))
	rot(all[3])
	rot(all[4])
	_, err = client.Stat(t.Context(), all[3])
	require.NoError(t, err, "nobody looked")
	require.ErrorIs(t, client.Check(t.Context(), all[3]), snapshot.ErrNotFound)
	var found []snapshot.Digest
	st, err = s.Scrub(t.Context(), 7, 0, func(d snapshot.Digest, _ error) { found = append(found, d) })
	require.NoError(t, err)
	require.Equal(t, all[4:5], found)
	require.Equal(t, 1, st.Damaged)
	missing, err = s.Missing()
	require.NoError(t, err)
	require.ElementsMatch(t, all[3:5], missing)
	for _, d := range missing {
		blobtest.Put(t, s, data[d])
		require.FileExists(t, filepath.Join(dir, "bad", d.String()))
	}
	missing, err = s.Missing()
	require.NoError(t, err)
	require.Empty(t, missing)
	_, err = s.Scrub(t.Context(), 0, 0, fail)
	require.NoError(t, err)
}
