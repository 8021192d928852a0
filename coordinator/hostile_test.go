package coordinator

import (
	"math"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// TestAbsurdNumbers: what one host says of itself can't stop the coordinator. Its
// estimates must stay numbers that can be written down.
func TestAbsurdNumbers(t *testing.T) {
	for _, w := range []api.Workspace{
		{BytesMoved: 2 << 20, AttachMS: math.MaxFloat64},
		{BytesMoved: math.MaxInt64, AttachMS: math.SmallestNonzeroFloat64},
		{BytesMoved: math.MinInt64, BytesNeeded: math.MinInt64, AttachMS: -math.MaxFloat64, SealMS: -1, MTimeDivergence: -1},
	} {
		b := newBench(t)
		evil, good := b.newHost("evil", 1, "evil"), b.newHost("good", 1, "good")
		b.submit("stages: [one]\nx: {stage: one, script: x, tags: [evil]}\n")
		c := evil.claim()
		require.NoError(t, evil.c.Accept(t.Context(), ref(c)))
		w.State, w.Origin = api.StateFull, api.OriginParent
		require.NoError(t, evil.c.Start(t.Context(), ref(c), api.Start{Workspace: w}))
		_, err := evil.end(c, api.Finish{Status: api.StatusSuccess, RunMS: math.MaxInt64, Output: newID(t), Bytes: math.MaxInt64, Workspace: w})
		require.NoError(t, err)
		evil.beat(func(h *api.Heartbeat) {
			h.DiskFree, h.DiskTotal, h.Queue = math.MinInt64, math.MaxInt64, math.MinInt64
			h.Evicted, h.EvictedBytes = math.MinInt64, math.MaxInt64
			h.EncodeRate, h.UploadRate = math.MaxFloat64, -math.SmallestNonzeroFloat64
		})

		// A job whose files would have to be fetched has an estimate for each host.
		p := b.submit("stages: [one, two]\nbuild: {stage: one, script: x, tags: [good]}\ntest: {stage: two, script: x, tags: [evil]}\n")
		evil.poll()
		c = good.claim()
		good.begin(c)
		out := good.succeed(c)
		good.upload(out, "", 1<<50)
		evil.claim()
		require.Equal(t, api.StatusAssigned, b.job(p, "test").Status)
	}
}

// TestAbsurdText: reasons hold names of files, which jobs choose.
func TestAbsurdText(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit("stages: [one]\nx: {stage: one, script: x}\n")
	c := h.claim()
	long := strings.Repeat("a\x1b]0;pwn\a\u009b2J\n", 1<<14)
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	require.NoError(t, h.c.Start(t.Context(), ref(c), api.Start{Workspace: api.Workspace{State: long, Reason: long}}))
	_, err := h.end(c, api.Finish{Status: api.StatusFailed, Code: api.Code(long), Reason: long, Workspace: api.Workspace{Reason: long}})
	require.NoError(t, err)
	j := b.job(p, "x")
	es, err := b.user.Events(t.Context(), p.ID, 0, 0)
	require.NoError(t, err)
	texts := []string{j.Reason, string(j.Code), j.Workspace.Reason, j.Workspace.State}
	for _, e := range es {
		texts = append(texts, e.Text, string(e.Code))
	}
	for _, s := range texts {
		require.LessOrEqual(t, len(s), 8<<10)
		require.Equal(t, -1, strings.IndexFunc(s, unicode.IsControl), "%q", s)
	}
	res, body := b.try(http.MethodGet, "/v1/jobs/"+j.ID, userToken)
	require.Equal(t, 200, res.StatusCode)
	require.Less(t, len(body), 64<<10)
}

// TestPoisonedSeed: a job leaves a .git or a root directory with which no checkout
// works. The next pipeline tries its seed once and does without.
func TestPoisonedSeed(t *testing.T) {
	for _, code := range []api.Code{api.FailSource, api.FailAttach} {
		b := newBench(t)
		h := b.newHost("h", 1)
		b.submit(single)
		h.run("job")
		p := b.submit(single)
		c := h.claim()
		require.Equal(t, api.OriginSeed, c.Origin)
		h.begin(c)
		_, err := h.end(c, api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: code, Reason: "it can't be used"})
		require.NoError(t, err)
		c = h.claim()
		require.Empty(t, c.Inputs)
		require.Equal(t, api.WorkspaceSeedGone, c.Code)
		h.begin(c)
		h.succeed(c)
		require.Equal(t, api.StatusSuccess, b.status(p))
	}
}
