package gitlab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// TestNoJob: a request is held for its time and no longer.
func TestNoJob(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.HoldMS = 150 })
	begin := time.Now()
	h.runner(1).getsNone()
	require.Greater(t, time.Since(begin), 140*time.Millisecond)
}

// TestOffer: the coordinator hears what the runner can, and neither its token nor
// where its terminal is.
func TestOffer(t *testing.T) {
	h := newHouse(t)
	began(t, h, "5")
	require.JSONEq(t, `{`+twoPhase+`}`, string(h.agent.offers[0].Runner))
	require.Equal(t, 1, h.agent.offers[0].Slot)
}

// TestReplaced: a second request of the slot takes the place of the first.
func TestReplaced(t *testing.T) {
	h := newHouse(t)
	first := make(chan int, 1)
	go func() {
		status, _, _ := h.runner(1).request(context.Background())
		first <- status
	}()
	eventually(t, func() bool { h.agent.mu.Lock(); defer h.agent.mu.Unlock(); return len(h.agent.offers) > 0 }, "never asked")
	h.cfg.HoldMS = 0
	go func() {
		require.Equal(t, 204, <-first)
		h.grant("5")
	}()
	require.EqualValues(t, 5, h.runner(1).gets()["id"])
}

// TestWrongToken: never 403 for a request for a job, as three of them put the runner
// to sleep for an hour.
func TestWrongToken(t *testing.T) {
	h := newHouse(t)
	r := h.runner(1)
	for _, token := range []string{"", "x", slotToken + "2", realToken} {
		resp, _, err := r.do(t.Context(), "POST", "jobs/request", "", []byte(`{"token":"`+token+`"}`))
		require.NoError(t, err)
		require.Equal(t, 401, resp.StatusCode)
		resp, _, err = r.do(t.Context(), "POST", "jobs/request", "", []byte(`{"token":"`+slotToken+`"}`), "Runner-Token", token+"!")
		require.NoError(t, err)
		require.Equal(t, 401, resp.StatusCode)
	}
	resp, _, err := r.do(t.Context(), "POST", "jobs/request", "", []byte(`[]`))
	require.NoError(t, err)
	require.Equal(t, 400, resp.StatusCode)
}

// TestClientGone: a job that is being made for a runner that goes is given back.
func TestClientGone(t *testing.T) {
	for _, ready := range []bool{false, true} {
		t.Run(fmt.Sprint("ready=", ready), func(t *testing.T) {
			h := newHouse(t)
			attaching := make(chan struct{})
			h.agent.attach = func(ctx context.Context, _ snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
				close(attaching)
				<-ctx.Done()
				if ready {
					return workspace(), nil
				}
				return nil, ctx.Err()
			}
			h.grant("5")
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-attaching
				cancel()
			}()
			_, _, err := h.runner(1).request(ctx)
			require.ErrorIs(t, err, context.Canceled)
			eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never given back")
			require.Equal(t, plugin.OutcomeUndelivered, h.agent.outcomes()[0])
			require.Zero(t, h.gl.count("PUT /api/v4/jobs/5 failed"))
		})
	}
}

// TestSlowAttach: a job that takes longer than a request is held waits for the next one.
func TestSlowAttach(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.HoldMS = 100; h.cfg.OrphanMS = 30_000 })
	asked := make(chan struct{})
	h.agent.attach = func(ctx context.Context, _ snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		<-asked
		time.Sleep(200 * time.Millisecond)
		return workspace(), nil
	}
	h.grant("5")
	r := h.runner(1)
	status, _, err := r.request(t.Context())
	close(asked)
	require.NoError(t, err)
	require.Equal(t, 204, status)
	status, job, err := r.request(t.Context())
	for status == 204 && err == nil {
		status, job, err = r.request(t.Context())
	}
	require.NoError(t, err)
	require.EqualValues(t, 5, job["id"])
}

// TestOrphan: without a next one it is given back.
func TestOrphan(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.HoldMS = 100; h.cfg.OrphanMS = 100 })
	h.agent.attach = func(ctx context.Context, _ snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	h.grant("5")
	h.runner(1).getsNone()
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never given back")
	require.Equal(t, plugin.OutcomeUndelivered, h.agent.outcomes()[0])
}

// TestNeverAcked: an answer that nobody read. The runner would have spoken at once.
func TestNeverAcked(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.AckMS = 2000 })
	h.grant("5")
	r := h.runner(1)
	r.gets()
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never given back")
	require.Equal(t, plugin.OutcomeUndelivered, h.agent.outcomes()[0])
	require.Equal(t, "running", h.gl.job("5").status, "it is somebody else's now")
	// If it had it after all, it must not run it.
	resp, _ := r.must("5", "running")
	require.Equal(t, 403, resp.StatusCode)
	// It may come to this host again, as another attempt.
	h.agent.queue <- &plugin.Grant{Attempt: "0000000000000000000000005b", Payload: payload("5")}
	r.gets()
	resp, _ = r.must("5", "running")
	require.Equal(t, 200, resp.StatusCode)
}

// TestBrokeOff: the runner's connection ends right after the answer.
func TestBrokeOff(t *testing.T) {
	h := newHouse(t, func(h *house) { h.cfg.AckMS = 60_000 })
	h.grant("5")
	r := h.runner(1)
	r.gets()
	r.c.CloseIdleConnections()
	// The next request says the same sooner: this slot's runner has no job.
	h.grant("6")
	require.EqualValues(t, 6, h.runner(1).gets()["id"])
	require.Equal(t, []plugin.Outcome{plugin.OutcomeUndelivered}, h.agent.outcomes())
}

// endedWhileAttaching has GitLab give job 5 a status while it gets its workspace: the
// runner gets job 6.
func endedWhileAttaching(t *testing.T, status string) *house {
	h := newHouse(t, func(h *house) { h.cfg.HoldMS = 60_000 })
	h.agent.attach = func(ctx context.Context, id snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		if id[25] == '6' {
			return workspace(), nil
		}
		h.gl.set(func() { h.gl.jobs["5"].status = status })
		<-ctx.Done()
		return nil, ctx.Err()
	}
	h.grant("5")
	h.grant("6")
	require.EqualValues(t, 6, h.runner(1).gets()["id"])
	require.Equal(t, []plugin.Outcome{plugin.OutcomeCanceled}, h.agent.outcomes())
	return h
}

// TestCancelWhileAttaching: GitLab ends a job that no runner has.
func TestCancelWhileAttaching(t *testing.T) {
	h := endedWhileAttaching(t, "canceled")
	require.Zero(t, h.gl.count("PUT /api/v4/jobs/5 failed"))
}

// TestCancelingWhileAttaching: GitLab wants a job to end that no runner has, and waits for
// that.
func TestCancelingWhileAttaching(t *testing.T) {
	h := endedWhileAttaching(t, "canceling")
	require.Eventually(t, func() bool { return h.gl.job("5").ends == 1 }, time.Minute, 5*time.Millisecond) // behind its disk and a retry
}

// TestCancelingAtFirstAnswer: GitLab wants a job to end at its runner's first word, which
// is the one that it answers.
func TestCancelingAtFirstAnswer(t *testing.T) {
	h := newHouse(t)
	h.grant("5")
	r := h.runner(1)
	r.gets()
	h.gl.set(func() {
		h.gl.jobs["5"].status = "canceling"
		h.gl.fault = func(*http.Request, []byte) (int, bool) { return 502, true }
	})
	first := func() int {
		resp, _, err := r.do(t.Context(), "PUT", "jobs/5", jobToken+"5", []byte(`{"info":{},"token":"`+jobToken+`5","state":"running"}`), "Content-Type", "application/json")
		require.NoError(t, err)
		return resp.StatusCode
	}
	require.GreaterOrEqual(t, first(), 500)
	h.gl.set(func() { h.gl.fault = nil })
	require.Equal(t, 403, first())
	require.Eventually(t, func() bool { return h.gl.job("5").ends == 1 }, time.Minute, 5*time.Millisecond)
	require.Equal(t, []plugin.Outcome{plugin.OutcomeCanceled}, h.agent.outcomes())
}

// TestLostWhileAttaching: so does the agent.
func TestLostWhileAttaching(t *testing.T) {
	h := newHouse(t)
	attaching := make(chan snapshot.ID, 2)
	h.agent.attach = func(ctx context.Context, id snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		attaching <- id
		<-ctx.Done()
		return nil, ctx.Err()
	}
	go h.runner(1).request(t.Context())
	h.grant("5")
	require.NoError(t, h.p.Lost(t.Context(), <-attaching, "fenced"))
	eventually(t, func() bool { return len(h.agent.outcomes()) == 1 }, "never discarded")
	require.Equal(t, plugin.OutcomeCanceled, h.agent.outcomes()[0])
}

// TestAgentRestarts: an agent that can't answer now is asked again.
func TestAgentRestarts(t *testing.T) {
	h := newHouse(t)
	n := 0
	h.agent.attach = func(context.Context, snapshot.ID, func(string)) (*plugin.Workspace, error) {
		if n++; n < 4 {
			return nil, fmt.Errorf("stopping: %w", plugin.ErrUnavailable)
		}
		return workspace(), nil
	}
	began(t, h, "5")
	require.Empty(t, h.agent.outcomes())
}

// TestGivenBackByAgent: an attempt that the agent no longer knows is nobody's failure.
func TestGivenBackByAgent(t *testing.T) {
	h := newHouse(t)
	h.agent.attach = func(_ context.Context, id snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
		if id[25] == '5' {
			return nil, errors.Join(errors.New("no such attempt"), snapshot.ErrNotFound)
		}
		return workspace(), nil
	}
	h.grant("5")
	h.grant("6")
	_, job, err := h.runner(1).request(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 6, job["id"])
	require.Zero(t, h.gl.count("PUT /api/v4/jobs/5 failed"))
}

// TestBadPayload: what can't be read can't be told to GitLab; the coordinator is.
func TestBadPayload(t *testing.T) {
	h := newHouse(t)
	h.agent.queue <- &plugin.Grant{Attempt: "0000000000000000000000000x", Payload: []byte(`{"id":"../1","token":"x"}`)}
	h.grant("6")
	_, job, err := h.runner(1).request(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 6, job["id"])
	require.Equal(t, []plugin.Outcome{plugin.OutcomeSystem}, h.agent.outcomes())
}

// TestStrangersBodies: who has shown no token yet can't have much of a body read, neither at once
// nor by and by.
func TestStrangersBodies(t *testing.T) {
	h := newHouse(t)
	for _, path := range []string{"jobs/request", "runners/verify"} {
		c, err := net.Dial("tcp", h.addr)
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		_, err = fmt.Fprintf(c, "POST /slot1/api/v4/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, maxCall)
		require.NoError(t, err)
		_, err = c.Write(bytes.Repeat([]byte(" "), 300<<10))
		require.NoError(t, err)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil) // although most of it was never sent
		require.NoError(t, err)
		resp.Body.Close()
		require.Equal(t, http.StatusBadRequest, resp.StatusCode, path)
	}
}
