package gitlab

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
)

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
	if text == "" || k.noLog || (!k.job.Log.Unsure && (same == k.line || len(k.job.Log.Text) > maxLog)) {
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
	n := size - len(text)
	if n > maxForeign {
		return Log{Text: text, Sent: len(text)} // nobody can follow on that
	}
	text = append(text, bytes.Repeat([]byte{'?'}, max(n, 0))...)
	return Log{Text: append(text, rest...), Sent: len(text)}
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
