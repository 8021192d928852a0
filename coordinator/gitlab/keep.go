package gitlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/roost-ci/roost/internal/gitlablog"
)

const (
	// systemFailure is why a job fails that ran into trouble which is not its own.
	systemFailure = "runner_system_failure"
	// maxLog bounds what the coordinator writes into one job's log.
	maxLog = 32 << 10
	// oweFor is how much longer than the job's time GitLab is told of its end.
	oweFor = 24 * time.Hour
)

// keeper looks after one job. It is one goroutine; the loop sends it news.
type keeper struct {
	s    *Service
	c    *client
	id   string
	stop context.CancelFunc
	news chan Kept

	job   Kept
	token Secret
	// alive is when it was kept alive last. running says that the server does not
	// know of jobs that wait.
	alive   time.Time
	running bool
	asked   bool // what it needs
	// noLog says that the server takes no log of a job that nobody acknowledged.
	noLog bool
	// line is the last reason that was written, without its numbers, and lined when.
	line  string
	lined time.Time
	// closing says that the last line of a failed job was tried.
	closing  bool
	failures int
}

// tellNews replaces what the keeper has not looked at yet.
func (k *keeper) tellNews(j Kept) {
	select {
	case <-k.news:
	default:
	}
	k.news <- j
}

func (k *keeper) run(ctx context.Context) {
	select {
	case k.job = <-k.news:
	case <-ctx.Done():
		return
	}
	for {
		wait, err := k.step(ctx)
		if errors.Is(err, ErrOver) {
			// The loop hears of it as well and stops us then.
			wait = time.Hour
		} else if err != nil {
			if ctx.Err() != nil {
				return
			}
			k.failures++
			wait = max(wait, k.s.backoff(k.failures))
			k.s.o.Log.Warn("job can't be looked after", "job", k.job.Job, "error", err, "again", wait)
		} else {
			k.failures = 0
		}
		t := time.NewTimer(wait)
		select {
		case j := <-k.news:
			// What was seen before we wrote is not how it is.
			if j.Log.Version >= k.job.Log.Version {
				k.job = j
			}
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// step does what is due and gives the time until something else is.
func (k *keeper) step(ctx context.Context) (time.Duration, error) {
	if k.token == "" {
		t, err := k.s.o.Board.Token(ctx, k.id)
		if err != nil {
			return 0, err
		}
		k.token = t
	}
	if k.job.Owed != "" {
		return k.tell(ctx)
	}
	if k.job.APIToken != "" && !k.asked {
		k.asked = true
		if err := k.askNeeds(ctx); err != nil {
			return 0, err
		}
	}
	now := k.s.o.Now()
	if k.alive.IsZero() {
		k.alive = k.job.Received
	}
	if !now.Before(k.alive.Add(k.s.o.KeepAlive)) {
		if err := k.keepAlive(ctx); err != nil {
			return 0, err
		}
		k.alive = now
	}
	wait := k.alive.Add(k.s.o.KeepAlive).Sub(now)
	next, err := k.write(ctx, now)
	return min(wait, next), err
}

// keepAlive says that the job is still wanted, and hears whether GitLab wants it.
func (k *keeper) keepAlive(ctx context.Context) error {
	for {
		state := "pending"
		if k.running {
			state = "running"
		}
		st, err := k.c.update(ctx, k.job.Job, k.token, state, "")
		if err != nil {
			return err
		}
		if over, err := k.ended(ctx, st); over {
			return err
		}
		switch {
		case st.code == http.StatusOK || st.code == http.StatusAccepted:
			return nil
		case st.code >= 500 || st.code == http.StatusTooManyRequests:
			return fmt.Errorf("update of job %d: status %d", k.job.Job, st.code)
		case k.running:
			// It runs on: only an end is an end.
			return nil
		}
		k.running, k.noLog = true, false
	}
}

// ended tells the board if GitLab ended the job, or wants it ended.
func (k *keeper) ended(ctx context.Context, st status) (bool, error) {
	switch {
	case st.canceling():
		return true, errors.Join(ErrOver, k.s.o.Board.Over(ctx, k.id, "canceled in GitLab", true))
	case st.over():
		why := "GitLab says that it is " + tidy(st.job, 20)
		if st.job == "" {
			why = fmt.Sprintf("GitLab does not know it any more (status %d)", st.code)
		}
		return true, errors.Join(ErrOver, k.s.o.Board.Over(ctx, k.id, why, false))
	}
	return false, nil
}

// write says in the job's log why it waits, and settles what was sent before and not
// answered. It gives the time until there may be another line.
func (k *keeper) write(ctx context.Context, now time.Time) (time.Duration, error) {
	if !k.job.Queued {
		return time.Hour, nil
	}
	if l := k.job.Log; l.Sent < len(l.Text) {
		return 0, k.settle(ctx, l)
	}
	text := k.job.Waiting
	if k.job.Log.Unsure {
		k.noLog = false
		text = "its host gave it back"
		k.lined = time.Time{}
	}
	same := withoutNumbers(text)
	if text == "" || k.noLog || (same == k.line && !k.job.Log.Unsure) || len(k.job.Log.Text) > maxLog {
		return time.Hour, nil
	}
	due := k.job.Received.Add(k.s.o.FirstLine)
	if next := k.lined.Add(k.s.o.NextLine); !k.lined.IsZero() && next.After(due) {
		due = next
	}
	if wait := due.Sub(now); wait > 0 && !k.job.Log.Unsure {
		return wait, nil
	}
	l, ok, err := k.s.o.Board.Intend(ctx, k.id, string(k.ours(now, text)))
	if err != nil || !ok {
		return time.Hour, err
	}
	k.line, k.lined = same, now
	return 0, k.settle(ctx, l)
}

// ours is a line of ours in the job's log.
func (k *keeper) ours(now time.Time, text string) []byte {
	return gitlablog.Line(now, !k.job.Plain, "roost: "+text)
}

// settle sends what is not surely in the job's log. Sent again, the same bytes at the
// same place are refused with the log's size, which tells that they had arrived.
func (k *keeper) settle(ctx context.Context, l Log) error {
	for range 8 {
		st, err := k.c.patch(ctx, k.job.Job, k.token, l.Sent, l.Text[l.Sent:])
		if err != nil {
			return err
		}
		if over, err := k.ended(ctx, st); over {
			return err
		}
		switch {
		case st.code < 300:
			l.Sent = len(l.Text)
		case st.code == http.StatusRequestedRangeNotSatisfiable && st.size == len(l.Text):
			// That others wrote just as much is not likely, and would harm nobody.
			l.Sent = len(l.Text)
		case st.code == http.StatusRequestedRangeNotSatisfiable:
			l = l.rebase(st.size)
		case st.code >= 500 || st.code == http.StatusTooManyRequests || st.code == http.StatusRequestTimeout:
			return fmt.Errorf("log of job %d: status %d", k.job.Job, st.code)
		default:
			// It is refused, so it is not there.
			l.Text = l.Text[:l.Sent]
			k.noLog = k.noLog || st.code == http.StatusForbidden
		}
		l.Unsure = l.Unsure && l.Sent < len(l.Text) && st.code != http.StatusRequestedRangeNotSatisfiable
		v, err := k.s.o.Board.Wrote(ctx, k.id, l)
		if err != nil {
			return err
		}
		l.Version = v
		k.job.Log = l
		if l.Sent == len(l.Text) {
			return nil
		}
	}
	return fmt.Errorf("the log of job %d changes under our hands", k.job.Job)
}

// rebase makes what was not written yet follow on a log that ends elsewhere than we
// thought. What others wrote is not known; its length is what counts.
func (l Log) rebase(size int) Log {
	rest := l.Text[l.Sent:]
	if size > l.Sent && size < len(l.Text) && !l.Unsure {
		return Log{Text: l.Text, Sent: size}
	}
	text := bytes.Clone(l.Text[:min(size, l.Sent)])
	if n := size - len(text); n > 0 && n < 64<<20 {
		text = append(text, bytes.Repeat([]byte{'?'}, n)...)
	}
	return Log{Text: append(text, rest...), Sent: len(text)}
}

// tell tells GitLab of a job's end until it knows.
func (k *keeper) tell(ctx context.Context) (time.Duration, error) {
	if k.s.o.Now().Sub(k.job.OwedSince) > k.job.Timeout+oweFor {
		k.s.o.Log.Error("GitLab was not told of a job's end: it did not answer for too long", "job", k.job.Job)
		return time.Hour, k.s.o.Board.Told(ctx, k.id)
	}
	if early := k.job.OwedSince.Sub(k.s.o.Now()); early > 0 {
		return early, nil
	}
	if !k.job.Canceled && !k.job.Quiet && !k.closing {
		k.closing = true
		if k.lastLine(ctx) {
			// Nobody acknowledged it: it has no log, and can't fail, before it runs.
			if st, err := k.c.update(ctx, k.job.Job, k.token, "running", ""); err == nil && st.code < 300 {
				k.lastLine(ctx)
			}
		}
	}
	reason := systemFailure
	if k.job.Canceled {
		reason = ""
	}
	st, err := k.c.end(ctx, k.job.Job, k.token, reason)
	switch {
	case err != nil:
		return 0, err
	case st.code == http.StatusAccepted:
		return max(st.after, k.s.o.Interval), nil // it still writes the log
	case st.code >= 500, st.code == http.StatusTooManyRequests, st.code == http.StatusConflict, st.code == http.StatusRequestTimeout:
		return st.after, fmt.Errorf("end of job %d: status %d", k.job.Job, st.code)
	case st.code >= 300 && !st.over():
		k.s.o.Log.Error("GitLab refuses to hear of a job's end", "job", k.job.Job, "status", st.code)
	}
	return time.Hour, k.s.o.Board.Told(ctx, k.id)
}

// lastLine writes why the job failed at the end of its log, wherever that is. It is
// tried, not promised. It reports whether the job has no log yet.
func (k *keeper) lastLine(ctx context.Context) (noLog bool) {
	text := append([]byte("\n"), k.ours(k.s.o.Now(), k.job.Owed)...)
	at := k.job.Log.Sent
	for range 3 {
		st, err := k.c.patch(ctx, k.job.Job, k.token, at, text)
		if err != nil || st.code != http.StatusRequestedRangeNotSatisfiable || st.size == at+len(text) {
			return err == nil && st.code == http.StatusForbidden && !st.over()
		}
		at = st.size
	}
	return false
}

// withoutNumbers makes two reasons equal that differ only in how much or how long.
func withoutNumbers(s string) string {
	return strings.Map(func(r rune) rune {
		if (r >= '0' && r <= '9') || r == '.' {
			return -1
		}
		return r
	}, s)
}
