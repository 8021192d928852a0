package gitlab

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// again ends the plugin and starts another one in the same directory.
func (h *house) again(held ...snapshot.ID) {
	h.stop()
	h.agent.mu.Lock()
	h.agent.held = nil
	for _, id := range held {
		h.agent.held = append(h.agent.held, plugin.Held{Attempt: id, Slot: 1, Attached: true})
	}
	h.agent.mu.Unlock()
	h.start()
	for _, forget := range h.idle {
		forget()
	}
}

// TestRestart: a running job goes on after a restart, to the byte.
func TestRestart(t *testing.T) {
	h := newHouse(t)
	r, attempt := began(t, h, "5")
	r.print("5", "one\n")
	h.again(attempt)
	require.Equal(t, 202, r.print("5", "two\n"))
	h.again(attempt)
	resp, _ := r.must("5", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "roost: waiting for host-a\nroost: FULL\none\ntwo\nroost: kept\n", plain(h.gl.job("5").trace))
	require.Empty(t, h.agent.outcomes())
	h.again()
	resp, _ = r.must("5", "success")
	require.Equal(t, 200, resp.StatusCode, "the answer outlives a restart too")
	require.Equal(t, 1, h.gl.job("5").ends)
}

// TestRestartBeforeAck: a runner that could not say that it has the job, because we
// were not there, is believed when it speaks.
func TestRestartBeforeAck(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.AckMS = 2000 })
	attempt := h.grant("5")
	r := h.runner(1)
	r.gets()
	h.again(attempt)
	require.Equal(t, 202, r.print("5", "one\n"))
	require.Empty(t, h.agent.outcomes())
}

// TestRestartWhileEnding: the end goes on by itself, and the seal is asked for again.
func TestRestartWhileEnding(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.FinalMS = 50 })
	r, attempt := began(t, h, "5")
	r.print("5", "one\n")
	h.gl.set(func() { h.gl.fault = func(*http.Request, []byte) (int, bool) { return 500, true } })
	r.must("5", "success")
	h.stop()
	h.gl.set(func() { h.gl.fault = nil })
	h.again(attempt)
	eventually(t, func() bool { return h.gl.job("5").status == "success" }, "never told")
	require.Equal(t, "roost: waiting for host-a\nroost: FULL\none\nroost: kept\n", plain(h.gl.job("5").trace))
	require.Equal(t, 1, h.gl.job("5").ends)
}

// TestHeldWithoutRecord: what was granted and never handed out goes back.
func TestHeldWithoutRecord(t *testing.T) {
	h := newHouse(t)
	h.again("00000000000000000000000009")
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never given back")
	require.Equal(t, plugin.OutcomeUndelivered, h.agent.outcomes()[0])
	began(t, h, "6")
}

// TestRecordWithoutHeld: the agent lost a job; GitLab is told, and the runner stops.
func TestRecordWithoutHeld(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	h.again()
	eventually(t, func() bool { return h.gl.job("5").status == "failed" }, "never ended")
	require.Equal(t, "runner_system_failure", h.gl.job("5").final["failure_reason"])
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode)
	require.Equal(t, "failed", resp.Header.Get("Job-Status"))
}

// TestLostOverRestart: a lost job stays lost.
func TestLostOverRestart(t *testing.T) {
	h := newHouse(t)
	r, attempt := began(t, h, "5")
	require.NoError(t, h.p.Lost(t.Context(), attempt, "fenced"))
	h.again(attempt)
	calls := h.gl.count("")
	require.Equal(t, 403, r.print("5", "x"))
	require.Equal(t, calls, h.gl.count(""))
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never discarded")
	require.Equal(t, plugin.OutcomeCanceled, h.agent.outcomes()[0])
}

// TestShutdownGivesBack: a job that is being made when we end goes to somebody else at once.
func TestShutdownGivesBack(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.HoldMS = 60_000 })
	attaching := make(chan struct{})
	h.agent.attach = func(ctx context.Context, _ snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		close(attaching)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	h.grant("5")
	done := make(chan int, 1)
	go func() {
		status, _, _ := h.runner(1).request(context.Background())
		done <- status
	}()
	<-attaching
	begin := time.Now()
	h.stop()
	require.Less(t, time.Since(begin), 30*time.Second)
	require.Equal(t, 204, <-done)
	require.Equal(t, []plugin.Outcome{plugin.OutcomeUndelivered}, h.agent.outcomes())
}

// TestBadRecords: what is not a record is told and harms nobody.
func TestBadRecords(t *testing.T) {
	h := newHouse(t)
	h.stop()
	for name, text := range map[string]string{
		"x.json": "{}", "00000000000000000000000001.json": "", "00000000000000000000000002.json": `{"version":2}`,
		"tmp-1": "half", "00000000000000000000000003.json": `{"version":1,"attempt":"00000000000000000000000004","job":"1"}`,
		"00000000000000000000000005.json": `{"version":1,"attempt":"00000000000000000000000005","job":"../1"}`,
		"00000000000000000000000006.json": `{"version":1,"attempt":"00000000000000000000000006","job":"1","state":"ending"}`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(h.dir, "jobs", name), []byte(text), 0o600))
	}
	h.start()
	require.NoFileExists(t, filepath.Join(h.dir, "jobs", "tmp-1"))
	began(t, h, "6")
}

// TestTraceLost: GitLab lost the log (412), and wants it again: ours and the runner's.
func TestTraceLost(t *testing.T) {
	h := newHouse(t)
	r, _ := began(t, h, "5")
	r.print("5", "one\n")
	gone := false
	h.gl.set(func() {
		h.gl.fault = func(req *http.Request, body []byte) (int, bool) {
			if req.Method == http.MethodPut && !gone && len(h.gl.jobs["5"].trace) > 0 && h.agent.sealed() > 0 {
				gone = true
				h.gl.jobs["5"].trace = nil
				return 412, true
			}
			return 0, false
		}
	})
	resp, _ := r.must("5", "success")
	require.Equal(t, 412, resp.StatusCode)
	r.sent.Reset()
	require.Equal(t, 202, r.print("5", "one\n"))
	resp, _ = r.must("5", "success")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "roost: waiting for host-a\nroost: FULL\none\nroost: kept\n", plain(h.gl.job("5").trace))
	require.Equal(t, 1, h.agent.sealed())
}

// TestTraceLostAlone: without the runner the end counts more than the log.
func TestTraceLostAlone(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.FinalMS = 50 })
	r, _ := began(t, h, "5")
	r.print("5", "one\n")
	n := 0
	h.gl.set(func() {
		h.gl.fault = func(req *http.Request, body []byte) (int, bool) {
			if h.agent.sealed() == 0 {
				return 0, false
			}
			switch {
			case req.Method != http.MethodPut:
				return 0, false
			case n < 7:
				n++
				return 500, true
			case n < 10:
				n++
				h.gl.jobs["5"].trace = nil
				return 412, true
			}
			return 0, false
		}
	})
	r.must("5", "success")
	eventually(t, func() bool { return h.gl.job("5").status == "success" }, "never told")
}

// TestFlushing: GitLab puts the log away (202); the runner asks again, or we do.
func TestFlushing(t *testing.T) {
	for _, stays := range []bool{true, false} {
		h := newHouse(t)
		r, _ := began(t, h, "5")
		n := 0
		h.gl.set(func() {
			h.gl.fault = func(req *http.Request, body []byte) (int, bool) {
				if req.Method != http.MethodPut || !bytes.Contains(body, []byte(`"success"`)) {
					return 0, false
				}
				n++
				return 202, n < 2
			}
		})
		resp, _ := r.must("5", "success")
		require.Equal(t, 202, resp.StatusCode)
		if stays {
			resp, _ = r.must("5", "success")
			require.Equal(t, 200, resp.StatusCode)
			continue
		}
		require.Eventually(t, func() bool { return h.gl.job("5").status == "success" }, time.Minute, 10*time.Millisecond)
	}
}

// TestRestartUnheard: a runner that got its job just before we died may have begun it while nobody
// was there to hear. If it is gone too, the job is not given to somebody else.
func TestRestartUnheard(t *testing.T) {
	h := newHouse(t)
	attempt := h.grant("5")
	r := h.runner(1)
	r.gets()
	h.again(attempt)
	h.grant("6")
	require.EqualValues(t, 6, r.gets()["id"])
	eventually(t, func() bool { return h.gl.job("5").status == "failed" }, "never ended")
	require.Equal(t, []plugin.Outcome{plugin.OutcomeSystem}, h.agent.outcomes())
}
