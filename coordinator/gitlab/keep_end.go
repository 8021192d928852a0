package gitlab

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

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
