package dashboard

import (
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestFormat(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 10: "1.0 KiB", 5 << 20: "5.0 MiB", 3 << 40: "3.0 TiB", 5000 << 40: "5000.0 TiB"} {
		require.Equal(t, want, bytesText(n))
	}
	for ms, want := range map[float64]string{0: "–", 0.26: "0.3 ms", 12: "12 ms", 2500: "2.5 s", 90_000: "1m30s"} {
		require.Equal(t, want, msText(ms))
	}
	require.Equal(t, "–", spare(Moves{}))
	require.Equal(t, "100.0 %", spare(Moves{Needed: 10}))
	require.Equal(t, "is-other", class(`x" onload="y`))
	require.Equal(t, "0s ago", ago(time.UnixMilli(5), 10), "clocks may disagree")
}

// Only jobs that started on kept files count.
func TestSum(t *testing.T) {
	require.Equal(t, Moves{Jobs: 2, Needed: 30, Moved: 5, AttachMS: 7}, Sum([]api.Job{
		{Workspace: api.Workspace{State: api.StateFull, BytesNeeded: 10, BytesMoved: 5, AttachMS: 3}},
		{Workspace: api.Workspace{State: api.StateFull, BytesNeeded: 20, AttachMS: 7}},
		{Workspace: api.Workspace{State: api.StateFresh, BytesMoved: 99, AttachMS: 99}},
		{},
	}))
}

// The pages of a cluster that has nothing yet say what to do.
func TestEmpty(t *testing.T) {
	p, err := New()
	require.NoError(t, err)
	w := httptest.NewRecorder()
	require.NoError(t, p.Index(w, Frame{Title: "Status", Now: time.Unix(0, 0), Page: Index{}}))
	require.Contains(t, w.Body.String(), "roost run FILE")
	require.NotContains(t, w.Body.String(), "http-equiv", "no refresh unless it is asked for")
	w = httptest.NewRecorder()
	require.NoError(t, p.Login(w, Frame{Title: "Login"}))
	require.Equal(t, 401, w.Code)
}
