package gitlab

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestJob is the plain way of a job that succeeds.
func TestJob(t *testing.T) {
	h := newHouse(t)
	r := h.runner(1)
	h.grant("4711")
	status, job, err := r.request(t.Context())
	require.NoError(t, err)
	require.Equal(t, 201, status)
	require.EqualValues(t, 4711, job["id"])

	resp, _ := r.must("4711", "running")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "running", resp.Header.Get("Job-Status"))
	require.Equal(t, 202, r.print("4711", "hello\n"))
	require.Equal(t, 202, r.print("4711", "world\n"))
	require.Zero(t, h.agent.sealed())
	resp, _ = r.must("4711", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, 1, h.agent.sealed())
	up := h.gl.job("4711")
	require.Equal(t, "success", up.status)
	require.Equal(t, "roost: waiting for host-a\nroost: FULL\nhello\nworld\nroost: kept\n", string(up.trace))
	require.Empty(t, h.agent.outcomes())

	// The answer was lost: the runner asks again and gets the same.
	resp, _ = r.must("4711", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, 1, h.agent.sealed())
	require.Equal(t, 1, h.gl.job("4711").ends)
}
