package gitlab

import (
	"context"
	"errors"
	"hash/crc32"
	"net/http"
	"sync"
	"time"

	"github.com/roost-ci/roost/plugin"
)

// giveUpAfter is how long after the end of a job's token GitLab is still told of its end.
const giveUpAfter = 24 * time.Hour

// finishing is the end of a job: one goroutine settles it with the agent, then tells
// GitLab until it answers. Calls of the runner wait for what it hears.
type finishing struct {
	j    *job
	kick chan struct{} // the runner asks again

	mu      sync.Mutex
	waiting []chan *answer
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
	if a.status == 0 { // nothing goes upstream of this job
		a.status = http.StatusForbidden
		a.header.Set("Job-Status", "canceled")
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
			r.Final.Suffix = joinLines([]string{"roost: the workspace could not be kept in time; jobs after this one may not find it"})
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
			lines := sealed.Lines
			if r.Final.Spoiled = sealed.Failed; sealed.Failed && sealed.Reason != "" {
				lines = append(lines[:len(lines):len(lines)], "roost: "+sealed.Reason)
			}
			r.Final.Suffix = joinLines(lines)
		} else if r.Final.Body == nil && r.Final.Reason != "" {
			r.Final.Suffix = joinLines([]string{"roost: " + r.Final.Reason})
		}
	})
	j.release()
	return true
}

// report tells GitLab until it answers, and returns its answer. nil: the service or
// the job's right ended before.
func (f *finishing) report(ctx context.Context) *answer {
	j := f.j
	until := j.record().Deadline.Add(giveUpAfter)
	for r := j.s.retry(); ; {
		a, err := f.once(j.ctx)
		if j.ctx.Err() != nil {
			return nil
		}
		hint := time.Duration(0)
		switch {
		case err != nil:
			j.s.log.Warn("GitLab gave no answer to a job's end; trying again", "job", j.id, "error", err)
		case a.status == http.StatusOK || a.over() || a.jobStatus() == "success":
			f.answered(a)
			return a
		case a.status == http.StatusAccepted || a.status == http.StatusPreconditionFailed:
			// GitLab is not done with the trace, or wants it again: the runner knows what to do
			// and asks again. If it has gone, we do.
			select {
			case <-f.kick: // from before this answer
			default:
			}
			f.tell(a)
			hint = max(10*time.Second, a.retryAfter())
			r = j.s.retry()
			if f.kicked(ctx, hint) {
				continue
			}
			hint = 0
		default:
			j.s.log.Warn("GitLab did not take a job's end; trying again", "job", j.id, "status", a.status)
			hint = a.retryAfter()
		}
		if j.s.now().After(until) {
			j.s.log.Error("GitLab never answered to a job's end; giving up", "job", j.id)
			a = &answer{status: http.StatusForbidden, header: http.Header{}}
			f.answered(a)
			return a
		}
		if !r.wait(ctx, hint) {
			return nil
		}
	}
}

// kicked waits for the runner to ask again.
func (f *finishing) kicked(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-f.kick:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// once sends the rest of the trace and the end.
func (f *finishing) once(ctx context.Context) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	j, rec := f.j, f.j.record()
	suffix := rec.Final.Suffix
	a, err := j.sendSuffix(ctx, rec.Final)
	switch {
	case errors.Is(err, errShort):
		suffix = nil // the runner is asked for what is missing, or has gone
		if f.listening() {
			return &answer{status: http.StatusPreconditionFailed, header: http.Header{}}, nil
		}
	case err != nil:
		return nil, err
	case a != nil && a.over():
		return a, nil
	case a != nil:
		suffix = nil // a trace that is full, say: the job's end counts more
	}
	body := rawObject{{"state", encode("failed")}}
	if rec.Final.Body != nil {
		if body, err = parseObject(rec.Final.Body); err != nil {
			return nil, err
		}
		j.count(&body, rec.Prefix, suffix)
	}
	if rec.Final.Body == nil || rec.Final.Success && rec.Final.Spoiled {
		body.set("state", "failed")
		body.set("failure_reason", "runner_system_failure")
		body.remove("exit_code")
	}
	return j.put(ctx, body)
}

// sendSuffix puts our last lines behind the runner's last byte.
func (j *job) sendSuffix(ctx context.Context, fin *final) (*answer, error) {
	t := &j.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	p := int64(len(t.prefix))
	if fin.Counted && fin.Size == 0 {
		if a, err := j.fill(ctx, t.prefix, 0); a != nil || err != nil {
			return a, err
		}
	}
	switch {
	case len(fin.Suffix) == 0:
		return nil, nil
	case !fin.Counted:
		return j.sendTail(ctx, fin.Suffix)
	}
	return j.fill(ctx, fin.Suffix, p+fin.Size)
}

// sendTail puts lines at the trace's end, wherever that is: only GitLab knows how far a runner came
// that has died.
func (j *job) sendTail(ctx context.Context, tail []byte) (*answer, error) {
	t := &j.trace
	for range 4 {
		if t.size < int64(len(t.prefix)) {
			if a, err := j.fill(ctx, t.prefix, 0); a != nil || err != nil {
				return a, err
			}
		}
		if t.tail > 0 && t.size == t.tail {
			return nil, nil // an earlier try came through and its answer did not
		}
		at := max(t.size, int64(len(t.prefix)))
		t.tail = at + int64(len(tail))
		a, err := j.patch(ctx, at, tail, "debug_trace=false", j.headers("text/plain"))
		switch {
		case err != nil:
			return nil, err
		case a.status == http.StatusAccepted:
			return nil, nil
		case a.status != http.StatusRequestedRangeNotSatisfiable:
			return a, nil
		}
	}
	return nil, errShort
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
