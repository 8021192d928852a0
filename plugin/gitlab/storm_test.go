package gitlab

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// stormAgent keeps an agent's promises: what it grants it holds until it is sealed or
// discarded, and what comes back undelivered it grants anew.
type stormAgent struct {
	t *testing.T

	mu       sync.Mutex
	queue    []string               // GitLab's ids
	held     map[snapshot.ID]string // attempts
	slots    map[int]snapshot.ID
	ended    map[snapshot.ID]bool
	sealed   map[string]int
	serial   int
	lines    int
	rng      *rand.Rand
	failures int
}

func (a *stormAgent) sick() error {
	if a.rng.IntN(10) == 0 {
		a.failures++
		return fmt.Errorf("not now: %w", plugin.ErrUnavailable)
	}
	return nil
}

func (a *stormAgent) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	for {
		a.mu.Lock()
		if err := a.sick(); err != nil {
			a.mu.Unlock()
			return nil, err
		}
		if a.slots[o.Slot] != "" {
			a.mu.Unlock()
			return nil, snapshot.ErrBusy
		}
		if len(a.queue) > 0 && ctx.Err() == nil {
			id := a.queue[0]
			a.queue = a.queue[1:]
			a.serial++
			attempt := attemptOf(fmt.Sprintf("%dx%d", a.serial, o.Slot))
			a.held[attempt], a.slots[o.Slot] = id, attempt
			a.mu.Unlock()
			return &plugin.Grant{Attempt: attempt, Slot: o.Slot, Payload: payload(id)}, nil
		}
		a.mu.Unlock()
		if pause.For(ctx, 5*time.Millisecond) != nil {
			return nil, nil
		}
	}
}

func (a *stormAgent) Attach(_ context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.sick(); err != nil {
		return nil, err
	}
	if a.held[id] == "" {
		return nil, snapshot.ErrNotFound
	}
	// No two attempts write equally much: a piece whose answer was lost could not be told
	// from one that another attempt wrote.
	a.lines++
	progress("roost: working on it " + strings.Repeat(".", a.lines))
	return workspace(), nil
}

func (a *stormAgent) end(id snapshot.ID, f func(job string)) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.sick(); err != nil {
		return err
	}
	if job := a.held[id]; job != "" {
		delete(a.held, id)
		a.ended[id] = true
		for n, at := range a.slots {
			if at == id {
				delete(a.slots, n)
			}
		}
		f(job)
	}
	return nil
}

func (a *stormAgent) Seal(_ context.Context, r plugin.SealRequest) (*plugin.Sealed, error) {
	err := a.end(r.Attempt, func(job string) { a.sealed[job]++ })
	return &plugin.Sealed{Lines: []string{"roost: kept"}}, err
}

func (a *stormAgent) Discard(_ context.Context, d plugin.DiscardRequest) error {
	return a.end(d.Attempt, func(job string) {
		if d.Outcome == plugin.OutcomeUndelivered {
			a.queue = append(a.queue, job)
		}
	})
}

func (a *stormAgent) Held(context.Context) (out []plugin.Held, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.held {
		out = append(out, plugin.Held{Attempt: id})
	}
	return out, a.sick()
}

// stormRunner keeps the runner's rules: what it tries again, what it takes for an end.
type stormRunner struct {
	*runner
	rng *rand.Rand
	ran map[string]int
	mu  *sync.Mutex
	die float64 // how likely it dies in a job
}

func (r *stormRunner) work(ctx context.Context) {
	for ctx.Err() == nil {
		status, job, err := r.request(ctx)
		if err != nil || status != 201 {
			pause.For(ctx, 20*time.Millisecond)
			continue
		}
		if r.rng.Float64() < 0.1 {
			r.c.CloseIdleConnections() // the answer was never read
			continue
		}
		id := strconv.Itoa(int(job["id"].(float64)))
		r.sent.Reset()
		r.job(ctx, id)
	}
}

// over is what the runner does not go on after.
func over(resp *http.Response, err error) bool {
	if err != nil {
		return false
	}
	js := resp.Header.Get("Job-Status")
	return resp.StatusCode == 403 || resp.StatusCode == 404 || js == "canceled" || js == "failed"
}

func (r *stormRunner) job(ctx context.Context, id string) {
	if resp, _, err := r.put(ctx, id, "running"); over(resp, err) {
		return
	}
	r.mu.Lock()
	r.ran[id]++
	r.mu.Unlock()
	at := 0
	for i := range 6 {
		fmt.Fprintf(&r.sent, "job %s line %d %s\n", id, i, strings.Repeat("x", r.rng.IntN(300)))
		if r.rng.Float64() < r.die {
			return
		}
		var stop bool
		if at, stop = r.flush(ctx, id, at); stop {
			return
		}
		pause.For(ctx, time.Duration(r.rng.IntN(20))*time.Millisecond)
	}
	for ctx.Err() == nil {
		for at < r.sent.Len() && ctx.Err() == nil {
			var stop bool
			if at, stop = r.flush(ctx, id, at); stop {
				return
			}
		}
		resp, _, err := r.put(ctx, id, "success")
		switch {
		case err == nil && resp.StatusCode == 200 || over(resp, err):
			return
		case err == nil && resp.StatusCode == 412:
			at = 0
		}
		pause.For(ctx, 10*time.Millisecond)
	}
}

// flush sends what was not sent, once.
func (r *stormRunner) flush(ctx context.Context, id string, at int) (int, bool) {
	all := r.sent.Bytes()
	resp, _, err := r.do(ctx, "PATCH", "jobs/"+id+"/trace", jobToken+id, all[at:], "Content-Range", fmt.Sprintf("%d-%d", at, len(all)-1))
	switch {
	case err != nil:
	case over(resp, nil):
		return at, true
	case resp.StatusCode == 202:
		return len(all), false
	case resp.StatusCode == 416:
		n, err := strconv.Atoi(strings.TrimPrefix(resp.Header.Get("Range"), "0-"))
		if err != nil || n > len(all) {
			panic(fmt.Sprintf("job %s: Range %q of %d", id, resp.Header.Get("Range"), len(all)))
		}
		return n, false
	}
	return at, false
}

// TestStorm: jobs, with the agent, GitLab, the runners and ourselves failing at random. Every job ends in
// GitLab exactly once, its trace is whole, and none runs twice.
func TestStorm(t *testing.T) {
	const jobs = 60
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	var log testenv.Buffer
	var suspect string
	agent := &stormAgent{
		t: t, held: map[snapshot.ID]string{}, slots: map[int]snapshot.ID{}, ended: map[snapshot.ID]bool{}, sealed: map[string]int{}, rng: rng(1),
	}
	h := newHouse(t, func(h *house) {
		h.as, h.cfg.HoldMS, h.cfg.AckMS, h.cfg.GoneMS, h.cfg.FinalMS = agent, 300, 3000, 150, 500
		h.o.Log = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Trace})
	})
	faults := rng(2)
	t.Cleanup(func() {
		if t.Failed() {
			for _, line := range strings.Split(log.String(), "\n") {
				if strings.Contains(line, "job="+suspect) {
					t.Log(line)
				}
			}
		}
	})
	h.gl.set(func() {
		for i := range jobs {
			id := strconv.Itoa(100 + i)
			h.gl.jobs[id] = &upJob{token: jobToken + id, status: []string{"running", "pending"}[i%2]}
			agent.queue = append(agent.queue, id)
		}
		h.gl.fault = func(*http.Request, []byte) (int, bool) {
			return []int{0, 500, 502, 503, 429}[faults.IntN(5)], faults.IntN(12) == 0
		}
		h.gl.after = func(*http.Request, []byte) bool { return faults.IntN(20) == 0 }
	})
	ctx, cancel := context.WithCancel(t.Context())
	ran, mu := map[string]int{}, &sync.Mutex{}
	var all sync.WaitGroup
	for slot := range 2 {
		r := &stormRunner{runner: h.runner(slot + 1), rng: rng(uint64(10 + slot)), ran: ran, mu: mu, die: 0.01}
		all.Go(func() { r.work(ctx) })
	}
	restarts := 0
	require.Eventually(t, func() bool {
		if restarts < 40 && rng(uint64(100+restarts)).IntN(3) == 0 {
			h.stop()
			h.start()
		}
		restarts++
		left := 0
		h.gl.set(func() {
			for _, j := range h.gl.jobs {
				if j.ends == 0 {
					left++
				}
			}
		})
		agent.mu.Lock()
		defer agent.mu.Unlock()
		return left == 0 && len(agent.held) == 0
	}, 5*time.Minute, 150*time.Millisecond)
	cancel()
	all.Wait()
	outcomes := map[string]int{}
	for i := range jobs {
		id := strconv.Itoa(100 + i)
		j := h.gl.job(id)
		outcomes[j.status]++
		suspect = id
		require.Equal(t, 1, j.ends, "job %s", id)
		require.LessOrEqual(t, ran[id], 1, "job %s", id)
		if j.status == "success" {
			require.Equal(t, 1, agent.sealed[id], "job %s", id)
			require.Equal(t, 6, strings.Count(string(j.trace), "job "+id+" line"), "job %s:\n%s", id, j.trace)
		}
	}
	agent.mu.Lock()
	defer agent.mu.Unlock()
	t.Logf("%v; %d of the agent's calls refused", outcomes, agent.failures)
	require.Greater(t, outcomes["success"], jobs/2)
}
