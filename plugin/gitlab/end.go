package gitlab

import (
	"context"
	"errors"
	"hash/crc32"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// giveUpAfter is how long after the end of a job's token GitLab is still told of its end.
const giveUpAfter = 24 * time.Hour

// finishing is the end of a job: one goroutine settles it with the agent, then tells
// GitLab until it answers. Calls of the runner wait for what it hears.
type finishing struct {
	j    *job
	kick chan struct{} // the runner asks again

	mu      sync.Mutex // guards waiting
	waiting []chan *answer

	// alone: GitLab lost a part of the trace, and the runner that had it has gone.
	// It is run's own.
	alone bool
}

// end gives a job its end, durably, and starts what follows from it. The first end is the one
// that counts; a repeated one joins it. It returns nil if the end could not be
// made durable and so did not happen.
func (j *job) end(fin final) *finishing {
	err := j.change(func(r *record) {
		if r.Final == nil {
			r.Final, r.State = &fin, stateEnding
		}
	})
	if err != nil {
		j.s.log.Error("a job's end can't be written", "job", j.id, "error", err)
		return nil
	}
	return j.finish()
}

// finish starts the goroutine of a job that has its end, once.
func (j *job) finish() *finishing {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.fin != nil {
		return j.fin
	}
	j.fin = &finishing{j: j, kick: make(chan struct{}, 1)}
	if j.rec.State != stateDone {
		j.s.spawn(j.fin.run)
	}
	return j.fin
}

// wait is the runner's call: GitLab's answer, or nil when ctx ends before.
func (f *finishing) wait(ctx context.Context) *answer {
	ch := make(chan *answer, 1)
	f.mu.Lock()
	f.waiting = append(f.waiting, ch)
	f.mu.Unlock()
	if rec := f.j.record(); rec.State == stateDone {
		return rec.Final.answer()
	}
	select {
	case f.kick <- struct{}{}:
	default:
	}
	select {
	case a := <-ch:
		return a
	case <-ctx.Done():
		f.mu.Lock()
		defer f.mu.Unlock()
		f.waiting = slices.DeleteFunc(f.waiting, func(c chan *answer) bool { return c == ch })
		return nil
	}
}

func (f *finishing) tell(a *answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, ch := range f.waiting {
		ch <- a
	}
	f.waiting = nil
}

// answer is what GitLab said, as far as it was kept.
func (fin *final) answer() *answer {
	a := &answer{status: fin.Status, header: http.Header{}}
	if fin.JobStatus != "" {
		a.header.Set("Job-Status", fin.JobStatus)
	}
	if a.status == 0 { // GitLab did not answer, or is not asked
		a.status = http.StatusForbidden
		a.header.Set("Job-Status", "failed")
		if fin.Quiet {
			a.header.Set("Job-Status", "canceled")
		}
	}
	return a
}

// run is the end of a job. After a crash it begins anew from what the record says.
func (f *finishing) run(ctx context.Context) {
	j := f.j
	if !j.record().Final.Released {
		f.settle(ctx)
	}
	var last *answer
	if rec := j.record(); rec.Final.Released && !rec.Final.Quiet && !rec.Final.Answered {
		if last = f.report(ctx); last == nil && j.ctx.Err() == nil {
			return // shutting down
		}
	}
	if !j.record().Final.Settled && !f.settleLate(ctx) {
		return
	}
	if ctx.Err() != nil {
		return
	}
	j.must(func(r *record) {
		r.State, r.Done = stateDone, j.s.now()
		r.Token, r.Prefix, r.Final.Body, r.Final.Suffix = "", nil, nil, nil
	})
	j.release()
	if last == nil {
		last = j.record().Final.answer()
	}
	f.tell(last)
}

// settle has the agent seal or discard the workspace. GitLab hears nothing before; but an agent
// that does not answer must not cost the job its result: its token ends one day.
func (f *finishing) settle(ctx context.Context) {
	j, rec := f.j, f.j.record()
	limit := 10 * time.Second // a failed job leaves nothing that GitLab would have to wait for
	if rec.Final.Success {
		limit = max(time.Second, rec.Deadline.Sub(j.s.now())-30*time.Second)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	alive, stop := context.WithCancel(ctx)
	defer stop()
	if !rec.Final.Quiet && !rec.Final.Answered && j.ctx.Err() == nil {
		j.s.work.Go(func() { j.keepAlive(alive, "running") })
	}
	if f.ask(ctx, limit) || j.s.life.Err() != nil {
		return
	}
	j.must(func(r *record) {
		r.Final.Released = true
		if r.Final.Success {
			r.Final.Spoiled = r.Durable
			r.Final.Suffix = j.trace.join("roost: the workspace could not be kept in time; jobs after this one may not find it")
		}
	})
}

// settleLate asks on once GitLab knows.
func (f *finishing) settleLate(ctx context.Context) bool { return f.ask(ctx, 0) }

// ask tells the agent until it answers, and notes what it says.
func (f *finishing) ask(ctx context.Context, within time.Duration) bool {
	j, rec := f.j, f.j.record()
	var sealed *plugin.Sealed
	if rec.Final.Success && !rec.Final.Spoiled {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(j.ctx, cancel)() // lost: then it is discarded
		ok := j.s.tell(ctx, "seal", func(ctx context.Context) (err error) {
			sealed, err = j.s.agent.Seal(ctx, plugin.SealRequest{Attempt: rec.Attempt, Run: rec.Final.Run, Within: within})
			if errors.Is(err, snapshot.ErrNotFound) {
				sealed, err = &plugin.Sealed{Failed: rec.Durable, Reason: "this host does not know the job any more, its workspace is not kept"}, nil
			}
			return err
		})
		if !ok {
			return false
		}
	} else {
		fin, out := rec.Final, rec.Final.Outcome
		if fin.Success {
			out = plugin.OutcomeSystem
		}
		if !j.s.discard(ctx, plugin.DiscardRequest{Attempt: rec.Attempt, Outcome: out, ExitCode: fin.Exit, Reason: fin.Reason, Run: fin.Run}) {
			return false
		}
	}
	j.must(func(r *record) {
		late := r.Final.Released
		r.Final.Settled, r.Final.Released = true, true
		if late {
			return // GitLab knows already; the trace is what it is
		}
		if sealed != nil {
			r.Final.Spoiled, r.Final.Suffix = sealed.Failed, j.trace.join(sealLines(sealed)...)
		} else if !r.Final.Own && r.Final.Reason != "" {
			r.Final.Suffix = j.trace.join("roost: " + r.Final.Reason)
		}
	})
	j.release()
	return true
}

// sealLines are what people hear of a seal. What went wrong is never left out.
func sealLines(s *plugin.Sealed) []string {
	lines := s.Lines
	if s.Reason != "" && (s.Failed || len(lines) == 0) {
		lines = append(lines[:len(lines):len(lines)], "roost: "+s.Reason)
	}
	return lines
}

// listening reports whether the runner waits for an answer.
func (f *finishing) listening() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting) > 0
}

// answered notes GitLab's last word.
func (f *finishing) answered(a *answer) {
	f.j.must(func(r *record) {
		r.Final.Answered, r.Final.Status, r.Final.JobStatus = true, a.status, a.jobStatus()
	})
}

func crcOf(b []byte) uint32 { return crc32.ChecksumIEEE(b) }
