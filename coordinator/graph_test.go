package coordinator

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// drive runs every job that host h is given, until none comes: jobs in codes fail
// with that exit status, all others succeed.
func (h *host) drive(codes map[string]int) {
	h.b.t.Helper()
	for {
		cs := h.poll()
		if len(cs) == 0 {
			return
		}
		for _, c := range cs {
			h.begin(c)
			code, fails := codes[c.Job.Name]
			if !fails {
				h.succeed(c)
				continue
			}
			_, err := h.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript, ExitCode: code})
			require.NoError(h.b.t, err)
		}
	}
}

func TestWhen(t *testing.T) {
	const stages = "stages: [one, two, three]\n"
	for _, c := range []struct {
		name, text string
		fail       map[string]int
		want       map[string]api.Status
		pipeline   api.Status
	}{
		{
			name: "a failure skips the stages behind it", text: stages + `
a: {stage: one, script: x}
b: {stage: two, script: x}
c: {stage: three, script: x}`,
			fail:     map[string]int{"a": 1},
			want:     map[string]api.Status{"a": "failed", "b": "skipped", "c": "skipped"},
			pipeline: api.StatusFailed,
		},
		{
			name: "on_failure and always run after a failure", text: stages + `
a: {stage: one, script: x}
b: {stage: two, script: x, when: on_failure}
c: {stage: three, script: x, when: always}`,
			fail:     map[string]int{"a": 1},
			want:     map[string]api.Status{"a": "failed", "b": "success", "c": "success"},
			pipeline: api.StatusFailed,
		},
		{
			name: "on_failure is skipped after a success and blocks nobody", text: stages + `
a: {stage: one, script: x}
b: {stage: two, script: x, when: on_failure}
c: {stage: three, script: x}`,
			want:     map[string]api.Status{"a": "success", "b": "skipped", "c": "success"},
			pipeline: api.StatusSuccess,
		},
		{
			name: "a skipped need blocks", text: stages + `
a: {stage: one, script: x}
b: {stage: two, script: x, when: on_failure}
c: {stage: three, script: x, needs: [b]}`,
			want:     map[string]api.Status{"a": "success", "b": "skipped", "c": "skipped"},
			pipeline: api.StatusSuccess,
		},
		{
			name: "on_failure sees failures further up", text: stages + `
a: {stage: one, script: x}
b: {stage: two, script: x, needs: [a]}
c: {stage: three, script: x, needs: [b], when: on_failure}`,
			fail:     map[string]int{"a": 1},
			want:     map[string]api.Status{"a": "failed", "b": "skipped", "c": "success"},
			pipeline: api.StatusFailed,
		},
		{
			name: "a failure that is allowed", text: stages + `
a: {stage: one, script: x, allow_failure: true}
b: {stage: two, script: x}`,
			fail:     map[string]int{"a": 1},
			want:     map[string]api.Status{"a": "failed", "b": "success"},
			pipeline: api.StatusSuccess,
		},
		{
			name: "only the codes that are allowed", text: stages + `
a: {stage: one, script: x, allow_failure: {exit_codes: [3]}}
b: {stage: one, script: x, allow_failure: {exit_codes: [3]}}
c: {stage: two, script: x}`,
			fail:     map[string]int{"a": 3, "b": 4},
			want:     map[string]api.Status{"a": "failed", "b": "failed", "c": "skipped"},
			pipeline: api.StatusFailed,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			h := b.newHost("h", 1)
			p := b.submit(c.text)
			h.drive(c.fail)
			for name, want := range c.want {
				require.Equal(t, want, b.job(p, name).Status, name)
			}
			require.Equal(t, c.pipeline, b.status(p))
		})
	}
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 2)
	p := b.submit(`
stages: [one, two]
run: {stage: one, script: x}
end: {stage: one, script: x}
wait: {stage: one, script: x}
later: {stage: two, script: x}
`)
	cs := h.claims(2)
	h.begin(cs[0])
	h.begin(cs[1])
	require.NoError(t, b.user.CancelPipeline(t.Context(), p.ID))
	require.NoError(t, b.user.CancelPipeline(t.Context(), "1"), "again, by its number")
	require.Equal(t, api.StatusCanceled, b.job(p, "wait").Status)
	require.Equal(t, api.StatusCanceled, b.job(p, "later").Status)
	require.Equal(t, api.StatusRunning, b.status(p), "not before the hosts said so")

	r := h.beat(func(hb *api.Heartbeat) { hb.Attempts = []api.AttemptRef{ref(cs[0]), ref(cs[1])} })
	require.Len(t, r.Cancel, 2)
	_, err := h.end(cs[0], api.Finish{Status: api.StatusCanceled, Code: api.FailCanceled})
	require.NoError(t, err)
	// An end that overtook the cancel counts.
	h.succeed(cs[1])
	require.Equal(t, api.StatusCanceled, b.job(p, cs[0].Job.Name).Status)
	require.Equal(t, api.StatusSuccess, b.job(p, cs[1].Job.Name).Status)
	require.Equal(t, api.StatusCanceled, b.status(p))
}

// A claim that was not accepted when its pipeline was canceled can't be any more.
func TestCancelBeatsAccept(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	c := h.claim()
	require.NoError(t, b.user.CancelPipeline(t.Context(), p.ID))
	requireCode(t, h.c.Accept(t.Context(), ref(c)), 409, api.CodeFenced)
	require.Equal(t, api.StatusCanceled, b.status(p))
}

// A canceled job whose host is lost is canceled, not tried again.
func TestCancelThenLost(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	h.begin(h.claim())
	require.NoError(t, b.user.CancelPipeline(t.Context(), p.ID))
	b.advance(31 * time.Second)
	require.Equal(t, api.StatusCanceled, b.status(p))
}

// Infrastructure failures go to another host first, are bounded, and are told from
// failures of the script.
func TestInfraRetries(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 1), b.newHost("z", 1)
	p := b.submit(single)
	broken := api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailDiskFull, Reason: "no space left"}
	c := a.claim()
	a.begin(c)
	_, err := a.end(c, broken)
	require.NoError(t, err)
	c = z.claim()
	require.Equal(t, 2, c.Number)
	z.begin(c)
	_, err = z.end(c, broken)
	require.NoError(t, err)
	// Both failed it: now any of them will do, after a pause.
	require.Empty(t, a.poll())
	require.Contains(t, b.job(p, "job").Reason, "tried again in 1 s")
	for n := 3; n <= 4; n++ {
		b.advance(4 * time.Second)
		a.beat()
		z.beat()
		h := a
		cs := a.poll()
		if len(cs) == 0 {
			h, cs = z, z.poll()
		}
		require.Len(t, cs, 1)
		require.Equal(t, n, cs[0].Number)
		require.Equal(t, c.Reason, cs[0].Reason, "the same as at first")
		require.Equal(t, 1, strings.Count(cs[0].Reason, "cold: "), cs[0].Reason)
		h.begin(cs[0])
		_, err = h.end(cs[0], broken)
		require.NoError(t, err)
	}
	j := b.job(p, "job")
	require.Equal(t, api.StatusFailed, j.Status)
	require.Equal(t, api.FailRetries, j.Code)
	require.Contains(t, j.Reason, "no space left")
	require.Equal(t, api.StatusFailed, b.status(p))
}

// A merge conflict is the same everywhere and is never tried again.
func TestConflictIsFinal(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	c := h.claim()
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	_, err := h.end(c, api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailConflict, Reason: "both wrote x"})
	require.NoError(t, err)
	j := b.job(p, "job")
	require.Equal(t, api.StatusFailed, j.Status)
	require.Equal(t, api.FailConflict, j.Code)
	require.Equal(t, 1, j.Attempt)
}
