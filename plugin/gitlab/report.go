package gitlab

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/roost-ci/roost/internal/pause"
)

// report tells GitLab until it answers, and returns its answer. nil: the service or
// the job's right ended before.
func (f *finishing) report(ctx context.Context) *answer {
	j := f.j
	until := j.record().Deadline.Add(giveUpAfter)
	for tries := j.s.tries(); ; {
		a, err := f.once(j.ctx)
		if j.ctx.Err() != nil {
			return nil
		}
		hint := time.Duration(0)
		switch {
		case err != nil:
			j.s.log.Warn("GitLab gave no answer to a job's end; trying again", "job", j.id, "error", err)
		case a.status == http.StatusOK || a.over():
			f.answered(a)
			return a
		case a.status == http.StatusAccepted || a.status == http.StatusPreconditionFailed:
			if f.again(ctx, a) {
				tries.Reset()
				continue
			}
		case a.waits() && j.acknowledge(j.ctx) == nil:
			// It takes no end of a job that nobody said was running.
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
		if tries.Wait(ctx, hint) != nil {
			return nil
		}
	}
}

// again handles an answer that is none yet: GitLab is not done with the trace (202), or
// wants it again (412). The runner knows what to do and asks again; if it does not, we
// do. It reports whether to go on at once.
func (f *finishing) again(ctx context.Context, a *answer) bool {
	lost := a.status == http.StatusPreconditionFailed
	if lost {
		f.j.trace.forget()
	}
	if !f.listening() {
		f.alone = f.alone || lost
		return !lost && pause.For(ctx, a.interval()) == nil
	}
	select {
	case <-f.kick: // from before this answer
	default:
	}
	f.tell(a)
	wait := 2 * a.interval()
	if lost {
		wait = time.Minute // for all of the trace
	}
	kicked := f.kicked(ctx, wait)
	f.alone = f.alone || lost && !kicked
	return ctx.Err() == nil
}

// interval is how long GitLab wants a runner to wait.
func (a *answer) interval() time.Duration {
	n, err := strconv.Atoi(a.header.Get("X-GitLab-Trace-Update-Interval"))
	if err != nil || n < 1 || n > 900 {
		return 3 * time.Second
	}
	return time.Duration(n) * time.Second
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
	j, rec := f.j, f.j.record()
	a, err := f.sendSuffix(ctx, rec.Final)
	switch {
	case errors.Is(err, errShort):
		// GitLab has lost what the runner sent. If it is still there it is asked for it; if
		// not, the job's end counts more than its log.
		return &answer{status: http.StatusPreconditionFailed, header: http.Header{}}, nil
	case err != nil:
		return nil, err
	case a != nil && (a.over() || a.waits() || a.later()):
		return a, nil
	}
	rec = j.record() // where our lines stand may be known better now
	body := rawObject{{"state", encode("failed")}}
	if rec.Final.Own {
		if body, err = parseObject(rec.Final.Body); err != nil {
			return nil, err
		}
		suffix := rec.Final.Suffix
		if a != nil {
			suffix = nil // it was refused: a trace that is full, say
		}
		foreign := rec.Foreign
		if a != nil && len(j.trace.unsure()) > 0 {
			foreign = 1 // whether it has it nobody knows
		}
		j.count(&body, rec.Prefix, foreign, suffix)
	}
	if !rec.Final.Own || rec.Final.Success && rec.Final.Spoiled {
		body.set("state", "failed")
		body.set("failure_reason", "runner_system_failure")
		body.remove("exit_code")
	}
	if f.alone {
		body.remove("checksum")
		body.remove("output")
	}
	return j.put(ctx, body)
}

// sendSuffix puts our last lines behind the runner's last byte.
func (f *finishing) sendSuffix(ctx context.Context, fin *final) (*answer, error) {
	j, t := f.j, &f.j.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	if fin.Counted && fin.Size == 0 {
		if a, err := j.bring(ctx); a != nil || err != nil {
			return a, err
		}
	}
	switch {
	case len(fin.Suffix) == 0:
		return nil, nil
	case !fin.Counted || f.alone:
		return j.sendTail(ctx, fin.Suffix)
	}
	return j.fill(ctx, fin.Suffix, t.end()+fin.Size)
}

// sendTail puts lines at the trace's end, wherever that is: only GitLab knows how far a runner came
// that has died.
func (j *job) sendTail(ctx context.Context, tail []byte) (*answer, error) {
	t := &j.trace
	for range 4 {
		if t.size < t.end() {
			if a, err := j.bring(ctx); a != nil || err != nil {
				return a, err
			}
		}
		if t.tail > 0 && t.size == t.tail {
			return nil, nil // an earlier try came through and its answer did not
		}
		at := max(t.size, t.end())
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
