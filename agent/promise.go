package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// durability is what the success of an external job means.
func (a *Agent) durability(x *api.External) string {
	if p := a.pool(); x.Durability == "" && p != nil {
		return p.Durability
	}
	return x.Durability
}

// promise holds the job to the durability that its success means. What fails here is
// no success of the job's. errStopping says that it is not known yet.
func (a *Agent) promise(ctx context.Context, c *api.Claim, f api.Finish, log sayer) (api.Finish, error) {
	want := a.durability(c.External)
	if want != durabilitySynced && want != durabilityDurable {
		return f, nil
	}
	var err error
	switch {
	case f.Output != "":
		begin := elapsed()
		if err = a.waitDurable(ctx, f.Output, want); err == nil {
			log.say("the output is %s, after %s", want, short(elapsed()-begin))
			return f, nil
		}
		if errors.Is(err, errStopping) {
			return f, err
		}
	case f.Code == api.SealFailed || f.Code == api.SealUnsupported:
		err = errors.New(f.Reason)
	default:
		return f, nil // there is nothing to be kept
	}
	f = noOutput(f, api.FailDurable, fmt.Sprintf("its output was to be %s, and is not: %v", want, err))
	f.Status, f.Infrastructure = api.StatusFailed, true
	log.say("JOB FAILED: %s", f.Reason)
	return f, nil
}

// waitDurable waits until a sealed snapshot is as durable as want says.
func (a *Agent) waitDurable(ctx context.Context, id snapshot.ID, want string) error {
	if want == durabilityDurable {
		a.o.Store.First(id)
		a.pack(a.out, id)
	}
	for {
		in, err := a.o.Store.Lookup(id)
		if err != nil {
			return err
		}
		switch {
		case !in.State.Usable():
			return errors.New(in.Err)
		case in.State == store.Durable || want == durabilitySynced && in.Synced:
			return nil
		}
		a.up.Urgent(id)
		if a.quitting.Err() != nil {
			return errStopping
		}
		if pause.For(ctx, 10*time.Millisecond) != nil {
			if in.Err != "" {
				return fmt.Errorf("not in time: %s", in.Err)
			}
			return errors.New("not in time")
		}
	}
}
