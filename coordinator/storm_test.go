package coordinator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// storm is a lab that fails at random and hosts that do as they like.
type storm struct {
	t *testing.T
	l *lab

	benchMu sync.Mutex // guards b
	b       *bench

	mu    sync.Mutex // guards rng, ended, bad
	rng   *rand.Rand
	ended map[string]int // jobs that a runner ran, by id
	bad   []string
}

func (s *storm) chance(percent int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(100) < percent
}

func (s *storm) complain(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = append(s.bad, fmt.Sprintf(format, args...))
}

// runner is what a host does with one claim; it reports whether the host goes on.
func (s *storm) runner(ctx context.Context, h *host, c api.Claim) bool {
	if s.chance(10) {
		return true // it never accepts
	}
	if h.c.Accept(ctx, ref(c)) != nil {
		return true
	}
	undelivered := api.Finish{Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Code: api.FailUndelivered, Reason: "no runner"}
	if s.chance(10) {
		h.c.Finish(ctx, ref(c), undelivered) //nolint:errcheck // its lease tells
		return true
	}
	if s.chance(5) {
		return false // the host dies with it
	}
	s.l.mu.Lock()
	var id int64
	fmt.Sscan(c.External.ID, &id)
	j := s.l.jobs[id]
	if !bytes.Equal(j.trace, c.External.Log) {
		s.complain("job %d: its host was told %q, its log has %q", id, c.External.Log, j.trace)
	}
	over := j.state != "held" && j.state != "running"
	if !over {
		j.state, j.trace = "running", append(j.trace, "the runner's\n"...)
	}
	s.l.mu.Unlock()
	s.mu.Lock()
	s.ended[c.External.ID]++
	s.mu.Unlock()
	if over {
		s.complain("job %d was run after its end", id)
	}
	time.Sleep(10 * time.Millisecond)
	f := api.Finish{Status: api.StatusSuccess, RunMS: 10}
	s.l.mu.Lock()
	if j.state == "running" {
		j.state = "success"
		j.ends++
	}
	s.l.mu.Unlock()
	for ctx.Err() == nil {
		if _, err := h.c.Finish(ctx, ref(c), f); err == nil || isFenced(err) {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

func isFenced(err error) bool { return errors.Is(err, &api.Error{Code: api.CodeFenced}) }

// host registers, polls and runs what it gets, until it dies or ctx ends.
func (s *storm) host(ctx context.Context, name string) {
	for ctx.Err() == nil {
		s.l.mu.Lock()
		pool := s.l.pool()
		s.l.mu.Unlock()
		h := &host{b: s.b, free: 1, reg: api.Register{
			Name: name, StoreID: newID(s.t), Session: newID(s.t), BootID: "boot", Slots: 1, Driver: "copy", Fingerprint: "f", Pool: pool,
		}}
		c, err := api.NewClient(s.url(), agentToken, nil)
		if err != nil {
			return
		}
		h.c = c
		r, err := h.c.Register(ctx, h.reg)
		if err != nil {
			time.Sleep(50 * time.Millisecond)
			continue
		}
		h.id = r.Agent
		for alive := true; alive && ctx.Err() == nil; {
			cs, err := h.c.Claims(ctx, h.id, h.offers(300*time.Millisecond))
			if err != nil {
				time.Sleep(30 * time.Millisecond)
				break // register again, as another store: nothing of it is known any more
			}
			for _, c := range cs.Claims {
				alive = s.runner(ctx, h, c) && alive
			}
		}
	}
}

func (s *storm) url() string {
	s.benchMu.Lock()
	defer s.benchMu.Unlock()
	return s.b.http.URL
}

// fault has calls fail, before or after they had their effect.
func (s *storm) fault(w http.ResponseWriter, r *http.Request, after func()) bool {
	ask := r.URL.Path == "/api/v4/jobs/request"
	switch {
	case s.chance(8):
		w.WriteHeader([]int{500, 502, 503, 429}[rand.IntN(4)])
		return true
	case ask && s.chance(5):
		w.WriteHeader(409)
		return true
	case !ask && s.chance(10): // done, and the answer lost
		after()
		panic(http.ErrAbortHandler)
	case s.chance(5):
		panic(http.ErrAbortHandler)
	}
	return false
}

// open counts the jobs that GitLab has heard no end of.
func (l *lab) open() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, j := range l.jobs {
		if j.ends == 0 {
			n++
		}
	}
	return n
}

// tellOpen logs what is known of these.
func (s *storm) tellOpen() {
	t, l := s.t, s.l
	ps, err := s.b.user.Pipelines(t.Context(), "", 3)
	require.NoError(t, err)
	for _, p := range ps {
		got, err := s.b.user.Pipeline(t.Context(), p.ID)
		require.NoError(t, err)
		for _, j := range got.Jobs {
			if l.get(j.Origin.ID).ends == 0 {
				t.Logf("%s\n%+v", jsonText(t, j), l.get(j.Origin.ID).updates)
			}
		}
	}
}

// Whatever fails, GitLab hears the end of each job once, no job runs twice, and each
// host is told exactly what its job's log holds.
func TestGitLabStorm(t *testing.T) {
	jobs := 60
	if testing.Short() {
		jobs = 15
	}
	l := newLab(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	l.twoPhase = seed%2 == 0
	s := &storm{t: t, l: l, rng: rand.New(rand.NewPCG(seed, 1)), ended: map[string]int{}}
	var log testenv.Buffer
	s.b = newLabBench(t, l, func(o *Options) {
		o.Log = testLog(&log)
		o.AcceptTimeout, o.HostLease, o.TellGrace, o.GitLabDrain = 200*time.Millisecond, 400*time.Millisecond, 50*time.Millisecond, 3*time.Second
	})
	l.mu.Lock()
	l.fault = s.fault
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var hosts sync.WaitGroup
	for i := range 3 {
		hosts.Go(func() { s.host(ctx, fmt.Sprintf("host-%d", i)) })
	}
	for i := range jobs {
		l.add(int64(i+1), fmt.Sprintf("job %d", i), "one", deps())
	}
	for restarts := 0; l.open() > 0 && ctx.Err() == nil; {
		time.Sleep(100 * time.Millisecond)
		if restarts < 4 && s.chance(10) {
			restarts++
			s.benchMu.Lock()
			s.b.stop()
			s.b.start()
			s.benchMu.Unlock()
		}
	}
	if l.open() > 0 {
		s.tellOpen()
		t.Log(log.String())
	}
	cancel()
	hosts.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, j := range l.jobs {
		require.Equal(t, 1, j.ends, "job %d ended as %s", id, j.state)
		require.Equal(t, 1, j.given, "job %d", id)
		require.LessOrEqual(t, s.ended[fmt.Sprint(id)], 1, "job %d ran", id)
		require.LessOrEqual(t, bytes.Count(j.trace, []byte("the runner's\n")), 1)
	}
	require.Empty(t, s.bad)
	n := 0
	for _, k := range s.ended {
		n += k
	}
	t.Logf("%d jobs, %d ran, the others failed with their hosts", jobs, n)
}
