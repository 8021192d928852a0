package runner

import (
	"cmp"
	"context"
	"errors"
	"time"
)

var errNoAnswer = errors.New("no good answer")

// finish ends the log and reports the job (1.4): the watcher ends first, so nothing
// else is sent while the report is under way; then what is left of the log; then the
// report, until GitLab has answered or the tries are used up.
func (t *trace) finish(ctx context.Context, r report) error {
	if t.cl.c.broken(Quiet) {
		defer func() {
			close(t.finished)
			<-t.watched
		}()
	} else {
		close(t.finished)
		<-t.watched
	}
	wait := time.Second
	var err error
	for range cmp.Or(t.cl.e.FinalRetries, 10) {
		if err = t.final(ctx, r); err == nil || t.cl.c.broken(FinalRetry) {
			break
		}
		if !t.cl.c.sleep(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, time.Hour)
	}
	if t.cl.c.broken(FinalOnce) {
		t.cl.update(ctx, t.job, r)
	}
	return err
}

func (t *trace) final(ctx context.Context, r report) error {
	t.mu.Lock()
	t.interval = defaultInterval
	t.mu.Unlock()
	for {
		if err := t.rest(ctx); err != nil {
			return err
		}
		r.Output = t.checksum()
		a := t.cl.update(ctx, t.job, r)
		t.setInterval(a.interval)
		switch a.outcome {
		case ok, abort, gone:
			return nil
		case accepted:
			if t.cl.c.broken(Wait202) {
				return nil
			}
		case mismatch:
			if t.cl.c.broken(Resend412) {
				return nil
			}
			t.mu.Lock()
			t.sent = 0
			t.mu.Unlock()
		default:
			t.cl.c.sleep(ctx, t.wait())
			return errNoAnswer
		}
		if !t.cl.c.sleep(ctx, t.wait()) {
			return ctx.Err()
		}
	}
}

// rest sends all of the log that isn't there.
func (t *trace) rest(ctx context.Context) error {
	if t.cl.c.broken(AllTrace) {
		return nil
	}
	for t.pending() {
		switch t.send(ctx).outcome {
		case ok:
		case abort, gone:
			return nil
		case mismatch:
			t.cl.c.sleep(ctx, t.wait())
		default:
			t.cl.c.sleep(ctx, t.wait())
			return errNoAnswer
		}
	}
	return nil
}
