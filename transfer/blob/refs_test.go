package blob_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

func TestRefsOfDir(t *testing.T) {
	blobtest.RunRefs(t, func(t *testing.T) blob.Refs { return openDir(t, t.TempDir(), blob.DirOptions{}) })
}

func TestRefsOverHTTP(t *testing.T) {
	blobtest.RunRefs(t, func(t *testing.T) blob.Refs {
		srv := serve(t, openDir(t, t.TempDir(), blob.DirOptions{}), blob.HandlerOptions{})
		return blob.NewHTTP(srv.URL, nil, nil)
	})
}

// A store without refs, a path that is none, and a server that says yes to
// everything.
func TestRefsThatAreNone(t *testing.T) {
	id := snapshot.ID(strings.Repeat("a", 26))
	srv := serve(t, struct{ blob.Store }{openDir(t, t.TempDir(), blob.DirOptions{})}, blob.HandlerOptions{})
	c := blob.NewHTTP(srv.URL, nil, nil)
	require.ErrorIs(t, c.PutRef(t.Context(), id, []byte("x")), snapshot.ErrNotFound)
	_, err := c.GetRef(t.Context(), id)
	require.ErrorIs(t, err, snapshot.ErrNotFound)

	dir := t.TempDir()
	srv = serve(t, openDir(t, dir, blob.DirOptions{}), blob.HandlerOptions{})
	for _, path := range []string{"/refs/", "/refs/x", "/refs/" + string(id) + "/x", "/refs/..%2f" + string(id), "/refs/" + strings.ToUpper(string(id))} {
		for _, method := range []string{http.MethodGet, http.MethodPut} {
			req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader("x"))
			require.NoError(t, err)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			resp.Body.Close()
			require.Equal(t, http.StatusNotFound, resp.StatusCode, "%s %s", method, path)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, srv.URL+"/refs/"+string(id), nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	req, err = http.NewRequestWithContext(t.Context(), http.MethodPut, srv.URL+"/refs/"+string(id), bytes.NewReader(make([]byte, blob.MaxRefBytes+1)))
	require.NoError(t, err)
	resp, err = http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
	require.NoDirExists(t, filepath.Join(dir, "refs"))

	yes := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>welcome</html>")) }))
	defer yes.Close()
	require.ErrorContains(t, blob.NewHTTP(yes.URL, nil, nil).PutRef(t.Context(), id, []byte("x")), "is that a blob server")
}
