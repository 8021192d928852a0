package agent

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/pause"
)

// jitter is between half of d and all of it.
func (a *Agent) jitter(d time.Duration) time.Duration { return pause.Jitter(d, a.o.Rand) }

// retry makes a call until it is answered: with nil, or with an error that another
// try would get too.
func (a *Agent) retry(ctx context.Context, what string, call func(context.Context) error) error {
	wait := pause.Backoff{First: 50 * time.Millisecond, Most: 5 * time.Second, Rand: a.o.Rand}
	for tries := 1; ; tries++ {
		err := call(ctx)
		if err == nil || !api.Unreachable(err) {
			return err
		}
		if tries%10 == 1 {
			a.log.Warn("waiting for the coordinator", "to", what, "err", err)
		}
		if pause.For(ctx, wait.After(tries)) != nil {
			return err
		}
	}
}

// fenced reports whether err says that the attempt is not ours any more.
func fenced(err error) bool { return errors.Is(err, &api.Error{Code: api.CodeFenced}) }

// notFound reports whether err says that the coordinator does not know it.
func notFound(err error) bool { return errors.Is(err, &api.Error{Code: api.CodeNotFound}) }
