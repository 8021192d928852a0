package agent

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
)

// nameTakenError says that another agent goes by our name. Waiting does not help.
type nameTakenError struct {
	name string
	err  error
}

func (e *nameTakenError) Error() string {
	return fmt.Sprintf("the name %q belongs to another agent that is alive: give this one another name, or stop that one (%v)", e.name, e.err)
}

func (e *nameTakenError) Unwrap() error { return e.err }

// register announces the host until the coordinator answers. It returns which of
// attempts are over.
func (a *Agent) register(ctx context.Context, attempts []api.AttemptRef) (map[snapshot.ID]bool, error) {
	var got *api.Registered
	var sent time.Duration
	err := a.retry(ctx, "register", func(ctx context.Context) error {
		r := api.Register{
			Name: a.o.Name, StoreID: a.o.Store.ID(), Session: a.session, BootID: a.o.BootID,
			Slots: a.o.Slots, Tags: a.o.Tags, Driver: a.o.Store.Driver().Name(),
			OS: runtime.GOOS, Arch: runtime.GOARCH, Fingerprint: a.fingerprint(), Version: a.o.Version,
			Pool: a.pool(), Holdings: a.allHoldings(), Attempts: attempts,
		}
		sent = elapsed()
		var err error
		got, err = a.o.Coordinator.Register(ctx, r)
		return err
	})
	if errors.Is(err, &api.Error{Code: api.CodeNameTaken}) {
		return nil, &nameTakenError{name: a.o.Name, err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("register: %w", err)
	}
	if _, err := snapshot.ParseID(string(got.Agent)); err != nil {
		return nil, fmt.Errorf("register: the coordinator calls this agent %w", err)
	}
	fail.Point("agent.registered")
	a.mu.Lock()
	a.id, a.renewed = got.Agent, sent
	a.lease = max(time.Duration(got.LeaseMS)*time.Millisecond, time.Second)
	a.beat = time.Duration(got.HeartbeatMS) * time.Millisecond
	if a.beat <= 0 || a.beat > a.lease/3 {
		a.beat = a.lease / 3
	}
	a.mu.Unlock()
	a.wake()
	over := make(map[snapshot.ID]bool, len(got.Ended))
	for _, id := range got.Ended {
		over[id] = true
	}
	return over, nil
}

// heartbeats renews the lease until ctx ends. quit ends the agent: its name is
// somebody else's now.
func (a *Agent) heartbeats(ctx context.Context, quit context.CancelCauseFunc) {
	for {
		a.mu.Lock()
		beat := a.beat
		a.mu.Unlock()
		t := time.NewTimer(beat)
		select {
		case <-t.C:
		case <-a.hurry:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
		err := a.heartbeat(ctx)
		var taken *nameTakenError
		switch {
		case errors.As(err, &taken):
			quit(err)
			return
		case err != nil && ctx.Err() == nil:
			a.log.Warn("heartbeat", "err", err)
		}
	}
}

// heartbeat renews the lease once and does what the coordinator asks for.
func (a *Agent) heartbeat(ctx context.Context) error {
	a.mu.Lock()
	id, limit, anew := a.id, a.lease/4, a.anew
	a.anew = false
	h := api.Heartbeat{
		Session: a.session, FreeSlots: a.freeLocked(), Holdings: a.holdings,
		EncodeRate: a.encode.perSecond(), UploadRate: a.up.Rate(),
		Evicted: a.evicted, EvictedBytes: a.evictedBytes,
	}
	for _, r := range a.running {
		h.Attempts = append(h.Attempts, r.ref)
	}
	told := len(a.holdings)
	a.mu.Unlock()
	h.DiskFree, h.DiskTotal = diskSpace(a.o.Store.Dir())
	_, h.Queue = a.up.Pending()

	if anew {
		return a.again(ctx, "the pool has changed")
	}
	// A call that hangs must not keep the next one from trying.
	call, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	sent := elapsed()
	reply, err := a.o.Coordinator.Heartbeat(call, id, h)
	if notFound(err) {
		return a.again(ctx, "the coordinator does not know this agent")
	}
	if err != nil {
		return err
	}
	a.answered(sent, told)
	a.obey(ctx, reply)
	return nil
}

// answered notes that a heartbeat was answered, which told of the first holdings that
// the coordinator had not heard of.
func (a *Agent) answered(sent time.Duration, told int) {
	a.mu.Lock()
	back := a.lostLocked()
	a.renewed = max(a.renewed, sent)
	if told <= len(a.holdings) { // a registration meanwhile has told them all
		a.holdings = a.holdings[told:]
	}
	a.mu.Unlock()
	if back {
		a.wake()
	}
}

// obey does what the coordinator asks for.
func (a *Agent) obey(ctx context.Context, reply *api.HeartbeatReply) {
	for _, id := range reply.Cancel {
		a.cancel(id, errCanceled)
	}
	for _, id := range reply.Fenced {
		a.cancel(id, errFenced)
	}
	a.reoffer(ctx, reply.Missing)
	if len(reply.Urgent) > 0 {
		a.o.Store.First(reply.Urgent...)
		a.up.Urgent(reply.Urgent...)
	}
}

// again registers anew, with a coordinator that has forgotten this agent, or has to
// know something new. What runs goes on, unless it is over there.
func (a *Agent) again(ctx context.Context, why string) error {
	a.log.Info("registering again", "why", why)
	a.mu.Lock()
	var now []api.AttemptRef
	for _, r := range a.running {
		now = append(now, r.ref)
	}
	a.mu.Unlock()
	over, err := a.register(ctx, now)
	for id := range over {
		a.cancel(id, errFenced)
	}
	return err
}

// guard stops all attempts when the lease has not been renewed for two thirds of
// its time: the coordinator may be about to give them to others.
func (a *Agent) guard(ctx context.Context) {
	was := false
	for {
		a.mu.Lock()
		tick, lost := a.lease/24, a.lostLocked()
		a.mu.Unlock()
		if lost {
			a.cancelAll(errLease)
		}
		if lost && !was {
			a.log.Warn("no heartbeat was answered for too long: jobs are stopped, none is taken")
			a.wake() // no work is asked for meanwhile
		}
		was = lost
		if pause.For(ctx, max(tick, 10*time.Millisecond)) != nil {
			return
		}
	}
}

// heard reports whether the coordinator answered the last heartbeats.
func (a *Agent) heard() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return elapsed()-a.renewed < a.lease/3+a.beat
}

func (a *Agent) lostLocked() bool { return elapsed()-a.renewed > a.lease*2/3 }

// cancel stops one attempt. The first cause counts.
func (a *Agent) cancel(id snapshot.ID, why error) {
	a.mu.Lock()
	r := a.running[id]
	a.mu.Unlock()
	if r != nil {
		r.cancel(why)
	}
}

// cancelAll stops all attempts.
func (a *Agent) cancelAll(why error) {
	a.mu.Lock()
	var all []*running
	for _, r := range a.running {
		all = append(all, r)
	}
	a.mu.Unlock()
	for _, r := range all {
		r.cancel(why)
	}
}

// beatNow makes the next heartbeat come at once.
func (a *Agent) beatNow() {
	select {
	case a.hurry <- struct{}{}:
	default:
	}
}

// wake lets the claim loop look again.
func (a *Agent) wake() {
	select {
	case a.freed <- struct{}{}:
	default:
	}
}
