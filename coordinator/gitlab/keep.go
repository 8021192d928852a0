package gitlab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/roost-ci/roost/internal/gitlablog"
)

const (
	// systemFailure is why a job fails that ran into trouble which is not its own.
	systemFailure = "runner_system_failure"
	// maxLog bounds what the coordinator writes into one job's log.
	maxLog = 32 << 10
	// maxForeign bounds what others may have written there before a runner had the job.
	maxForeign = 4 << 20
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
	given int // the hand-out that the token is of
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
	if k.token == "" || k.given != k.job.Given {
		t, err := k.s.o.Board.Token(ctx, k.id)
		if err != nil {
			return 0, err
		}
		k.token, k.given = t, k.job.Given
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
		why := "GitLab says that it is " + OneLine(st.job, 20)
		if st.job == "" {
			why = fmt.Sprintf("GitLab does not know it any more (status %d)", st.code)
		}
		return true, errors.Join(ErrOver, k.s.o.Board.Over(ctx, k.id, why, false))
	}
	return false, nil
}

// ours is a line of ours in the job's log.
func (k *keeper) ours(now time.Time, text string) []byte {
	return gitlablog.Line(now, !k.job.Plain, "roost: "+text)
}
