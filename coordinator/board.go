package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
)

// board is the coordinator as the GitLab service sees it.
type board struct{ s *Server }

var _ gitlab.Board = board{}

// Look implements gitlab.Board.
func (b board) Look() (gitlab.Work, <-chan struct{}) { return b.s.look() }

// Take implements gitlab.Board.
func (b board) Take(ctx context.Context, from gitlab.Pool, j *gitlab.Job, payload []byte) error {
	return b.s.take(ctx, from, j, payload)
}

// Token implements gitlab.Board.
func (b board) Token(ctx context.Context, id string) (gitlab.Secret, error) {
	payload, err := b.s.payload(ctx, id)
	if errors.Is(err, errSealed) {
		return "", errors.Join(gitlab.ErrOver, err, b.s.do(ctx, func(t *txn) error { return t.lostPayload(id) }))
	}
	if errors.Is(err, state.ErrNotFound) {
		return "", fmt.Errorf("%w: %w", gitlab.ErrOver, err)
	}
	if err != nil {
		return "", err
	}
	j, err := gitlab.Parse("", payload)
	return j.Token, err
}

// Intend implements gitlab.Board.
func (b board) Intend(ctx context.Context, id, text string) (gitlab.Log, bool, error) {
	var log gitlab.Log
	ok := false
	if err := b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if ok = j != nil && j.Status == api.StatusQueued && len(j.Outside.Log) == j.Outside.Sent; !ok {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Log = append(slices.Clip(j.Outside.Log), text...)
		log = logIn(j)
		return nil
	}); err != nil {
		return gitlab.Log{}, false, err // the others may still be written
	}
	return log, ok, nil
}

// Wrote implements gitlab.Board.
func (b board) Wrote(ctx context.Context, id string, log gitlab.Log) (int64, error) {
	var version int64
	if err := b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || j.Status != api.StatusQueued {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Log, j.Outside.Sent, j.Outside.Unsure = log.Text, log.Sent, log.Unsure
		version, t.place = j.Version, true
		return nil
	}); err != nil {
		return 0, err // version may still be written
	}
	return version, nil
}

// logIn gives what is known of a job's log in its system.
func logIn(j *state.Job) gitlab.Log {
	return gitlab.Log{Text: j.Outside.Log, Sent: j.Outside.Sent, Unsure: j.Outside.Unsure, Version: j.Version}
}

// Needs implements gitlab.Board.
func (b board) Needs(ctx context.Context, id string, names []string, known bool) error {
	return b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || !j.Outside.Asking {
			return nil
		}
		j = t.editJob(id)
		j.Outside.Asking, t.place = false, true
		if known && !j.Fixed && !j.Status.Ended() {
			j.Outside.From, j.Outside.Notes = t.fromNames(j, names, j.Outside.Notes, "the job needs")
			j.Outside.Rule = "needs, as GitLab's API says"
		}
		return nil
	})
}

// Over implements gitlab.Board.
func (b board) Over(ctx context.Context, id, why string, wanted bool) error {
	return b.s.do(ctx, func(t *txn) error {
		j := t.jobs.get(id)
		if j == nil || j.Status.Ended() {
			return nil
		}
		if a := t.attempts.get(j.AttemptID); a != nil && a.Stage != state.AttemptEnded {
			if a.Stage != state.AttemptAssigned {
				return nil // its host hears it, too
			}
			t.endAttempt(a.ID, api.StatusCanceled, api.FailCanceled, why)
		}
		j = t.editJob(id)
		j.Status, j.Code, j.Reason, j.EndMS = api.StatusCanceled, api.FailCanceled, why, t.ms()
		if wanted {
			t.owe(id, why, true)
		}
		t.look[j.Pipeline] = true
		t.event(j.Pipeline, j, why)
		return nil
	})
}

// Told implements gitlab.Board.
func (b board) Told(ctx context.Context, id string) error {
	return b.s.do(ctx, func(t *txn) error {
		if j := t.jobs.get(id); j == nil || j.Outside.Owed == "" {
			return nil
		}
		j := t.editJob(id)
		j.Outside.Owed, j.Outside.OwedMS = "", 0
		return nil
	})
}
