package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// serve makes a client of a server that answers with f.
func serve(t *testing.T, f http.HandlerFunc) *Client {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	c, err := NewClient(s.URL+"/", "secret", nil)
	require.NoError(t, err)
	require.Equal(t, s.URL, c.Base())
	return c
}

func TestNewClientRefuses(t *testing.T) {
	for _, bad := range []string{"", "localhost:7000", "ftp://x", "http://", "://", "unix:///run/x"} {
		_, err := NewClient(bad, "", nil)
		require.Error(t, err, bad)
	}
}

func TestClientErrors(t *testing.T) {
	for _, c := range []struct {
		name        string
		answer      http.HandlerFunc
		code        Code
		status      int
		unreachable bool
	}{
		{"a refusal", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(409)
			io.WriteString(w, `{"code":"FENCED","error":"too late"}`) //nolint:errcheck // a test's
		}, CodeFenced, 409, false},
		{"not ours", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>", 502) }, "", 502, true},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "http://192.0.2.1/", 302) }, "", 302, false},
		{"not JSON", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{") }, "", 0, true}, //nolint:errcheck // a test's
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(200)
			panic(http.ErrAbortHandler)
		}, "", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := func() error {
				_, err := serve(t, c.answer).Heartbeat(t.Context(), "a", Heartbeat{})
				return err
			}()
			require.Error(t, err)
			require.Equal(t, c.unreachable, Unreachable(err), "%v", err)
			require.NotContains(t, err.Error(), "secret")
			if c.status != 0 {
				var e *Error
				require.ErrorAs(t, err, &e)
				require.Equal(t, c.status, e.HTTP)
				require.Equal(t, c.code, e.Code)
			}
			if c.code != "" {
				require.ErrorIs(t, err, &Error{Code: c.code})
				require.NotErrorIs(t, err, &Error{Code: CodeNameTaken})
			}
		})
	}
	c, err := NewClient("http://127.0.0.1:1", "secret", nil)
	require.NoError(t, err)
	require.True(t, Unreachable(c.Health(t.Context())))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = c.Health(ctx)
	require.True(t, errors.Is(err, context.Canceled), "%v", err)
}

func TestClientSends(t *testing.T) {
	var got *http.Request
	var body string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got, body = r, string(b)
		w.Header().Set(HeaderOffset, "7")
		w.Header().Set(HeaderLogEnd, "true")
		io.WriteString(w, "{}") //nolint:errcheck // a test's
	})
	ref := AttemptRef{Attempt: snapshot.ID(strings.Repeat("a", 26)), Epoch: 3}

	next, err := c.AppendLog(t.Context(), ref, 4, []byte("abc"))
	require.NoError(t, err)
	require.Equal(t, int64(7), next)
	require.Equal(t, "PATCH", got.Method)
	require.Equal(t, "/v1/attempts/"+string(ref.Attempt)+"/log", got.URL.Path)
	require.Equal(t, "4-6", got.Header.Get("Content-Range"))
	require.Equal(t, "3", got.Header.Get(HeaderEpoch))
	require.Equal(t, "Bearer secret", got.Header.Get("Authorization"))
	require.Equal(t, "abc", body)

	chunk, err := c.Log(t.Context(), ref.Attempt, 5, 3*time.Second)
	require.NoError(t, err)
	require.Equal(t, "offset=5&wait=3s", got.URL.RawQuery)
	require.Equal(t, LogChunk{Data: []byte("{}"), Next: 7, Ended: true}, *chunk)
	chunk, err = c.Log(t.Context(), ref.Attempt, 0, 0)
	require.NoError(t, err)
	require.False(t, chunk.Ended, "there is more before the end")

	_, err = c.Submit(t.Context(), "key", Submit{Project: "p"})
	require.NoError(t, err)
	require.Equal(t, "key", got.Header.Get(HeaderKey))
	require.Contains(t, body, `"project":"p"`)

	_, err = c.Pipeline(t.Context(), "../agents:register?x")
	require.NoError(t, err)
	require.NotContains(t, got.URL.RawQuery, "x", "an id stays in the path")
}

func TestLogGap(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(HeaderOffset, "2")
		w.WriteHeader(416)
	})
	_, err := c.AppendLog(t.Context(), AttemptRef{}, 5, []byte("x"))
	var gap *OffsetError
	require.ErrorAs(t, err, &gap)
	require.Equal(t, int64(2), gap.Want)
	require.False(t, Unreachable(err))
	next, err := c.AppendLog(t.Context(), AttemptRef{}, 5, nil)
	require.NoError(t, err)
	require.Equal(t, int64(5), next, "nothing is not sent")
}

// Every route has a name and a pattern of its own, and somebody who may use it.
func TestRoutes(t *testing.T) {
	names, calls := map[string]bool{}, map[string]bool{}
	for _, r := range Routes() {
		require.False(t, names[r.Name], r.Name)
		require.False(t, calls[r.Method+r.Pattern], r.Pattern)
		names[r.Name], calls[r.Method+r.Pattern] = true, true
		require.NotEmpty(t, r.Roles)
		require.True(t, strings.HasPrefix(r.Pattern, "/"))
		require.False(t, r.Page && r.Method != "GET", "pages change nothing")
	}
}
