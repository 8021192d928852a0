package runner

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"
)

// Runner is a runner process's life inside this process.
type Runner struct {
	c       Config
	program string

	quit     chan struct{} // closed: no new jobs
	quitOnce sync.Once

	// mu guards the counts below, which are by token as in a real runner (1.1).
	mu      sync.Mutex
	running map[string][]*build
	asking  map[string]int
	all     int
	free    chan struct{} // closed and made anew when a place gets free
	jobs    sync.WaitGroup
}

// New makes a runner that does nothing before Run.
func New(c Config) (*Runner, error) {
	program := c.Program
	if program == "" {
		var err error
		if program, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if c.Log == nil {
		c.Log = io.Discard
	}
	for _, e := range c.Entries {
		c.Break = append(slices.Clone(c.Break), e.Break...)
	}
	c.SystemID = cmp.Or(c.SystemID, "s_0123456789ab")
	return &Runner{
		c: c, program: program, quit: make(chan struct{}), running: map[string][]*build{}, asking: map[string]int{}, free: make(chan struct{}),
	}, nil
}

// Run verifies the tokens and polls for jobs until ctx ends, which is SIGTERM: jobs
// are aborted and reported as runner_interrupted; or until Quit, after its last job.
func (r *Runner) Run(ctx context.Context) error {
	polls, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		select {
		case <-r.quit:
			stop()
		case <-polls.Done():
		}
	}()
	// jobs outlive a SIGTERM by their reports
	jobs, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	var loops sync.WaitGroup
	for i := range r.c.Entries {
		e := &r.c.Entries[i]
		cl := newClient(&r.c, e)
		loops.Go(func() {
			good, rotate, err := cl.verify(polls)
			if err == nil && !good {
				r.logf("%s: token is not valid", e.Name)
			}
			if !rotate.IsZero() {
				loops.Go(func() { r.rotate(polls, cl, rotate) })
			}
			if e.FeatureFlags["FF_USE_JOB_ROUTER"] && cl.routed(polls) {
				r.logf("%s: jobs come from elsewhere", e.Name)
				return
			}
			var askers sync.WaitGroup
			for range cmp.Or(e.RequestConcurrency, 1) {
				askers.Go(func() { r.poll(polls, jobs, cl) })
			}
			askers.Wait()
			cl.http.CloseIdleConnections()
		})
	}
	loops.Wait()
	if ctx.Err() != nil {
		r.interrupt()
		timer := time.AfterFunc(r.c.scaled(cmp.Or(r.c.ShutdownTimeout, 30*time.Second)), abandon)
		defer timer.Stop()
	}
	r.jobs.Wait()
	return nil
}

// rotate replaces an entry's token when its time has come.
func (r *Runner) rotate(ctx context.Context, cl *client, at time.Time) {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		if err := cl.reset(ctx); err != nil {
			r.logf("%s: %v", cl.e.Name, err)
		}
	case <-ctx.Done():
	}
}

// Quit is SIGQUIT: jobs are finished, no new ones taken.
func (r *Runner) Quit() { r.quitOnce.Do(func() { close(r.quit) }) }

// Running is how many jobs it has now.
func (r *Runner) Running() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all
}

func (r *Runner) logf(format string, args ...any) {
	fmt.Fprintf(r.c.Log, "%s "+format+"\n", append([]any{time.Now().Format("15:04:05.000")}, args...)...)
}

// poll asks for jobs of one entry, one request at a time (1.1).
func (r *Runner) poll(ctx, jobs context.Context, cl *client) {
	bad := 0
	for ctx.Err() == nil {
		if !r.place(ctx, cl.e) {
			return
		}
		job, healthy, status := cl.request(ctx)
		switch {
		case healthy:
			bad = 0
		default:
			bad++
		}
		if job != nil {
			r.logf("%s: job %d received", cl.e.Name, job.ID)
			r.start(jobs, cl, job)
			continue
		}
		r.leave(cl.e)
		if status != http.StatusNoContent {
			r.logf("%s: Checking for jobs... failed: %d", cl.e.Name, status)
		}
		wait := cmp.Or(r.c.CheckInterval, 3*time.Second)
		if bad >= cmp.Or(cl.e.UnhealthyLimit, 3) && !r.c.broken(Unhealthy) {
			bad, wait = 0, cmp.Or(cl.e.UnhealthyInterval, time.Hour)
			r.logf("%s: unhealthy, will be disabled for %s", cl.e.Name, wait)
		}
		r.c.sleep(ctx, wait)
	}
}

// place waits for room for one more job, and takes it.
func (r *Runner) place(ctx context.Context, e *Entry) bool {
	for {
		r.mu.Lock()
		free := r.free
		taken := len(r.running[e.Token]) + r.asking[e.Token]
		room := (e.Limit == 0 || taken < e.Limit) && (r.c.Concurrent == 0 || r.all+r.allAskingLocked() < r.c.Concurrent)
		if e.Limit == 0 && r.c.Concurrent == 0 {
			room = taken < 1
		}
		if room {
			r.asking[e.Token]++
			r.mu.Unlock()
			return true
		}
		r.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return false
		}
	}
}

func (r *Runner) allAskingLocked() int {
	n := 0
	for _, a := range r.asking {
		n += a
	}
	return n
}

func (r *Runner) leave(e *Entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asking[e.Token]--
	close(r.free)
	r.free = make(chan struct{})
}

// start runs a job in the place that was taken for it.
func (r *Runner) start(ctx context.Context, cl *client, job *Job) {
	b := &build{r: r, c: &r.c, cl: cl, job: job, started: time.Now()}
	r.mu.Lock()
	r.asking[cl.e.Token]--
	b.numberLocked(r.running[cl.e.Token])
	r.running[cl.e.Token] = append(r.running[cl.e.Token], b)
	r.all++
	r.mu.Unlock()
	r.jobs.Go(func() {
		b.run(ctx)
		r.mu.Lock()
		defer r.mu.Unlock()
		list := r.running[cl.e.Token]
		for i := range list {
			if list[i] == b {
				r.running[cl.e.Token] = append(list[:i:i], list[i+1:]...)
			}
		}
		r.all--
		close(r.free)
		r.free = make(chan struct{})
		r.logf("%s: job %d ended", cl.e.Name, job.ID)
	})
}

func (r *Runner) interrupt() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, list := range r.running {
		for _, b := range list {
			b.interrupt()
		}
	}
}
