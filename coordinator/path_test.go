package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

const linear = `
stages: [build, test]
build:
  stage: build
  script: make
test:
  stage: test
  script: make check
`

// A pipeline of two jobs goes its whole way: the second starts from what the
// first one left, on the host that has it.
func TestPath(t *testing.T) {
	b := newBench(t)
	h := b.newHost("a", 1)
	b.newHost("b", 1).poll()
	p := b.submit(linear)
	require.Equal(t, api.StatusRunning, p.Status)

	c := h.claim()
	require.Equal(t, "build", c.Job.Name)
	require.Equal(t, api.WorkspaceCold, c.Code)
	require.Len(t, c.DomainKey, 32)
	require.NotEmpty(t, c.Token)
	h.begin(c)
	next, err := h.c.AppendLog(t.Context(), ref(c), 0, []byte("hello\n"))
	require.NoError(t, err)
	require.Equal(t, int64(6), next)
	out := h.succeed(c)

	c = h.claim()
	require.Equal(t, "test", c.Job.Name)
	require.Equal(t, []api.Input{{Job: "build", Snapshot: out}}, c.Inputs)
	require.Equal(t, api.OriginParent, c.Origin)
	require.Equal(t, api.PlacedContinuation, b.job(p, "test").Placed.Code)
	h.begin(c)
	h.succeed(c)

	got, err := b.user.Pipeline(t.Context(), "1")
	require.NoError(t, err)
	require.Equal(t, api.StatusSuccess, got.Status)
	require.Equal(t, out, b.job(p, "build").Workspace.Output)

	log, err := b.user.Log(t.Context(), b.job(p, "build").AttemptID, 0, time.Second)
	require.NoError(t, err)
	require.Equal(t, "hello\n", string(log.Data))
	require.True(t, log.Ended)

	es, err := b.user.Events(t.Context(), p.ID, 0, 0)
	require.NoError(t, err)
	for i, e := range es {
		require.Equal(t, int64(i+1), e.Seq, "events are numbered without a gap")
	}
	require.Equal(t, api.StatusSuccess, es[len(es)-1].Status)
}
