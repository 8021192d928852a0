package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

var stamp = regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z 00O `)

// plain is a trace without times.
func plain(trace []byte) string { return stamp.ReplaceAllString(string(trace), "") }

// began has a runner get job id and say that it runs.
func began(t *testing.T, h *house, id string) (*runner, snapshot.ID) {
	t.Helper()
	r := h.runner(1)
	attempt := h.grant(id)
	r.gets()
	resp, _ := r.must(id, "running")
	require.Equal(t, 200, resp.StatusCode)
	return r, attempt
}

// TestJob is the plain way of a job that succeeds.
func TestJob(t *testing.T) {
	h := newHouse(t)
	r, attempt := began(t, h, "4711")
	require.Equal(t, 202, r.print("4711", "hello\n"))
	require.Equal(t, 202, r.print("4711", "world\n"))
	require.Zero(t, h.agent.sealed())
	resp, _ := r.must("4711", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, 1, h.agent.sealed())
	require.Equal(t, attempt, h.agent.seals[0].Attempt)
	require.Greater(t, h.agent.seals[0].Within, 50*time.Minute)
	up := h.gl.job("4711")
	require.Equal(t, "success", up.status)
	require.Equal(t, "roost: waiting for host-a\nroost: FULL\nhello\nworld\nroost: kept\n", plain(up.trace))
	require.Len(t, stamp.FindAll(up.trace, -1), 2, "each line of ours has the time")
	require.Empty(t, h.agent.outcomes())

	// The answer was lost: the runner asks again and gets the same.
	resp, _ = r.must("4711", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "success", resp.Header.Get("Job-Status"))
	require.Equal(t, 1, h.agent.sealed())
	require.Equal(t, 1, h.gl.job("4711").ends)
	require.NotContains(t, h.records(), jobToken, "a token outlives its job")
}

// records is what stands in all of them.
func (h *house) records() string {
	list, err := filepath.Glob(filepath.Join(h.dir, "jobs", "*"))
	require.NoError(h.t, err)
	var all strings.Builder
	for _, name := range list {
		fi, err := os.Stat(name)
		require.NoError(h.t, err)
		require.EqualValues(h.t, 0o600, fi.Mode().Perm(), name)
		b, err := os.ReadFile(name)
		require.NoError(h.t, err)
		all.Write(b)
	}
	return all.String()
}

// TestFailed: a job that fails is discarded, and its slot has the next one.
func TestFailed(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	resp, _ := r.must("5", "failed", `,"failure_reason":"script_failure","exit_code":3`)
	require.Equal(t, 200, resp.StatusCode)
	d := h.agent.discards[0]
	require.Equal(t, plugin.OutcomeFailed, d.Outcome)
	require.Equal(t, 3, d.ExitCode)
	require.EqualValues(t, 3, h.gl.job("5").final["exit_code"])
	began(t, h, "6")
}

// TestSealFails: a job whose promise can't be kept does not become a success.
func TestSealFails(t *testing.T) {
	h := newHouse(t)
	h.agent.seal = func(context.Context, plugin.SealRequest) (*plugin.Sealed, error) {
		return &plugin.Sealed{Failed: true, Reason: "the store is full"}, nil
	}
	r, _ := began(t, h, "5")
	r.print("5", "x\n")
	r.must("5", "success", `,"exit_code":0`)
	up := h.gl.job("5")
	require.Equal(t, "failed", up.status)
	require.Equal(t, "runner_system_failure", up.final["failure_reason"])
	require.NotContains(t, up.final, "exit_code")
	require.Contains(t, plain(up.trace), "x\nroost: the store is full\n")
}

// TestSealIsHeld: GitLab hears nothing of a success, but that the job lives, before it is
// sealed; and a seal that can't be asked for is asked for again.
func TestSealIsHeld(t *testing.T) {
	h := newHouse(t)
	var tries, before atomic.Int32
	h.agent.seal = func(ctx context.Context, _ plugin.SealRequest) (*plugin.Sealed, error) {
		if tries.Add(1) < 3 {
			return nil, fmt.Errorf("starting: %w", plugin.ErrUnavailable)
		}
		for end := time.Now().Add(time.Minute); h.gl.count("PUT /api/v4/jobs/5 running") <= int(before.Load())+2; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Error("nothing kept it alive")
				break
			}
		}
		if h.gl.count("PUT /api/v4/jobs/5 success") != 0 {
			t.Error("told before the seal")
		}
		return &plugin.Sealed{}, nil
	}
	r, _ := began(t, h, "5")
	before.Store(int32(h.gl.count("PUT /api/v4/jobs/5 running")))
	r.must("5", "success")
	require.Equal(t, "success", h.gl.job("5").status)
}

// TestGitLabDown: the end is told until GitLab answers, also when the runner has given
// up long ago.
func TestGitLabDown(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.FinalMS = 100 })
	r, _ := began(t, h, "5")
	r.print("5", "x\n")
	h.gl.set(func() {
		n := 0
		h.gl.fault = func(req *http.Request, _ []byte) (int, bool) {
			n++
			return []int{500, 0, 503, 429, 502}[n%5], true
		}
	})
	resp, _ := r.must("5", "success")
	require.Equal(t, 503, resp.StatusCode, "a status that makes the runner ask again")
	h.gl.set(func() { h.gl.fault = nil })
	eventually(t, func() bool { return h.gl.job("5").status == "success" }, "never told")
	require.Equal(t, 1, h.agent.sealed())
	require.Equal(t, 1, h.gl.job("5").ends)
}

// TestAnswerLost: GitLab took the end, and its answer did not arrive.
func TestAnswerLost(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	lost := false
	h.gl.set(func() {
		h.gl.after = func(req *http.Request, body []byte) bool {
			hit := !lost && req.Method == http.MethodPut && strings.Contains(string(body), `"success"`)
			lost = lost || hit
			return hit
		}
	})
	resp, _ := r.must("5", "success")
	require.True(t, lost)
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, "success", resp.Header.Get("Job-Status"), "what the runner is content with")
	require.Equal(t, 1, h.gl.job("5").ends)
}

// TestCanceled: the runner sees what GitLab says.
func TestCanceled(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	h.gl.set(func() { h.gl.jobs["5"].status = "canceled" })
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, "canceled", resp.Header.Get("Job-Status"))
	resp, _ = r.must("5", "failed")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, []plugin.Outcome{plugin.OutcomeCanceled}, h.agent.outcomes())
}

// TestCanceledSilently: a runner that was told to stop and says nothing more has stopped.
func TestCanceledSilently(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	h.gl.set(func() { h.gl.jobs["5"].status = "canceled" })
	r.must("5", "running")
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never discarded")
	require.Equal(t, plugin.OutcomeCanceled, h.agent.outcomes()[0])
}

// TestDroppedAtFirst: GitLab refuses the first word; the runner drops the job silently.
func TestDroppedAtFirst(t *testing.T) {
	h := newHouse(t)
	r := h.runner(1)
	h.grant("5")
	r.gets()
	h.gl.set(func() { h.gl.jobs["5"].status = "canceled" })
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode)
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never discarded")
	began(t, h, "6")
}

// TestLost: a job that is not ours any more says nothing upstream, and its runner stops.
func TestLost(t *testing.T) {
	h := newHouse(t)
	r, attempt := began(t, h, "5")
	require.NoError(t, h.p.Lost(t.Context(), attempt, "fenced"))
	require.NoError(t, h.p.Lost(t.Context(), attempt, "fenced"))
	calls := h.gl.count("")
	require.Equal(t, 403, r.print("5", "secret"))
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, "canceled", resp.Header.Get("Job-Status"))
	require.Empty(t, h.agent.outcomes(), "its runner has not stopped")
	r.must("5", "failed")
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never discarded")
	require.Equal(t, calls, h.gl.count(""), "GitLab heard of it")
	began(t, h, "6")
}

// TestLostWhileSealing: what GitLab was not told yet it is not told.
func TestLostWhileSealing(t *testing.T) {
	h := newHouse(t)
	sealing := make(chan struct{})
	h.agent.seal = func(ctx context.Context, _ plugin.SealRequest) (*plugin.Sealed, error) {
		close(sealing)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r, attempt := began(t, h, "5")
	go func() {
		<-sealing
		h.p.Lost(context.Background(), attempt, "fenced")
	}()
	resp, _ := r.must("5", "success")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, "canceled", resp.Header.Get("Job-Status"))
	require.Equal(t, []plugin.Outcome{plugin.OutcomeCanceled}, h.agent.outcomes())
	require.Zero(t, h.gl.count("PUT /api/v4/jobs/5 success"))
}

// TestRunnerDied: a slot whose runner asks for a job has none.
func TestRunnerDied(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	r.print("5", "half a li")
	h.grant("6")
	require.EqualValues(t, 6, h.runner(1).gets()["id"])
	eventually(t, func() bool { return h.gl.job("5").status == "failed" }, "never ended")
	up := h.gl.job("5")
	require.Equal(t, "runner_system_failure", up.final["failure_reason"])
	require.Contains(t, string(up.trace), "half a li")
	require.Contains(t, string(up.trace), "the runner of this job has gone")
	require.Equal(t, []plugin.Outcome{plugin.OutcomeSystem}, h.agent.outcomes())
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode, "a runner that was not dead stops")
}

// TestRunnerAlive: a job that calls is not ended by another request of its slot.
func TestRunnerAlive(t *testing.T) {
	// Held for longer than a job may be silent, and that is longer than a busy machine stands still.
	h := newHouse(t, func(h *house) { h.cfg.HoldMS, h.cfg.GoneMS = 4000, 2000 })
	r, _ := began(t, h, "5")
	over, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stop)
		for {
			select {
			case <-over:
				return
			default:
			}
			r.put(context.Background(), "5", "running")
			time.Sleep(50 * time.Millisecond)
		}
	}()
	h.runner(1).getsNone()
	close(over)
	<-stop
	resp, _ := r.must("5", "success")
	require.Equal(t, 200, resp.StatusCode)
}

// TestRequired: a job that can't have what it needs fails before its first command, and
// the request goes on waiting.
func TestRequired(t *testing.T) {
	h := newHouse(t)
	h.agent.attach = func(_ context.Context, id snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		if strings.HasSuffix(string(id), "05") {
			return nil, &plugin.Error{Code: "MERGE_CONFLICT", Text: "two jobs changed main.go"}
		}
		return workspace(), nil
	}
	h.grant("5")
	h.grant("6")
	r := h.runner(1)
	require.EqualValues(t, 6, r.gets()["id"])
	eventually(t, func() bool { return h.gl.job("5").status == "failed" }, "never ended")
	up := h.gl.job("5")
	require.Equal(t, "runner_system_failure", up.final["failure_reason"])
	require.Contains(t, plain(up.trace), "two jobs changed main.go\n")
	require.Equal(t, plugin.OutcomeSystem, h.agent.discards[0].Outcome)
}

// TestTwoPhase: GitLab keeps a job for us that nobody said was running, and
// refuses all else about it.
func TestTwoPhase(t *testing.T) {
	h := newHouse(t)
	h.agent.attach = func(ctx context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
		progress("roost: 10 %")
		time.Sleep(200 * time.Millisecond)
		if strings.HasSuffix(string(id), "05") {
			return nil, &plugin.Error{Text: "no room"}
		}
		return workspace(), nil
	}
	h.gl.set(func() {
		h.gl.jobs["5"] = &upJob{token: jobToken + "5", status: "pending"}
		h.gl.jobs["6"] = &upJob{token: jobToken + "6", status: "pending"}
	})
	h.grant("5")
	h.grant("6")
	r := h.runner(1)
	r.gets()
	require.Greater(t, h.gl.count("PUT /api/v4/jobs/6 pending"), 1)
	require.Zero(t, h.gl.count("PUT /api/v4/jobs/6 running"))
	require.Equal(t, "pending", h.gl.job("6").status)
	r.must("6", "running")
	r.print("6", "x\n")
	r.must("6", "success")
	require.Equal(t, "roost: waiting for host-a\nroost: 10 %\nroost: FULL\nx\nroost: kept\n", plain(h.gl.job("6").trace))
	eventually(t, func() bool { return h.gl.job("5").status == "failed" }, "never ended")
	require.Contains(t, plain(h.gl.job("5").trace), "no room")
}

// TestForeignLines: a host that had the job before wrote lines that nobody here knows. What
// the runner sends is whole all the same.
func TestForeignLines(t *testing.T) {
	for name, c := range map[string]struct{ theirs, log string }{
		"unknown":         {"theirs, and long enough to be longer than anything that we would have written in their place\n", ""},
		"short":           {"theirs\n", ""},
		"told":            {"ours\ntheirs, too\n", "ours\n????????????"},
		"after our own":   {"ours\ntheirs\n", "ours\n"},
		"less than known": {"", "ours\n"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.gl.set(func() { h.gl.jobs["5"] = &upJob{token: jobToken + "5", status: "running", trace: []byte(c.theirs)} })
			h.agent.queue <- &plugin.Grant{Attempt: attemptOf("5"), Payload: payload("5"), Log: []byte(c.log)}
			r := h.runner(1)
			r.gets()
			r.must("5", "running")
			h.again(attemptOf("5"))
			for _, s := range []string{"one\n", "two\n"} {
				require.Equal(t, 202, r.print("5", s))
			}
			h.again(attemptOf("5"))
			resp, _ := r.must("5", "success")
			require.Equal(t, 200, resp.StatusCode)
			trace := plain(h.gl.job("5").trace)
			require.Contains(t, trace, "FULL\none\ntwo\nroost: kept\n")
			require.True(t, strings.HasPrefix(trace, c.theirs))
		})
	}
}
