package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// claimWait is how long the coordinator may keep a request for work.
const claimWait = 20 * time.Second

// claims takes work for the free slots until ctx ends. Attempts run under out.
func (a *Agent) claims(ctx, out context.Context) {
	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		a.mu.Lock()
		id, free, lost := a.id, a.freeLocked(), a.lostLocked()
		a.mu.Unlock()
		if free == 0 || lost {
			select {
			case <-a.freed:
			case <-ctx.Done():
			}
			continue
		}
		got, err := a.poll(ctx, id, free)
		if err != nil {
			if !sleep(ctx, a.jitter(wait)) {
				return
			}
			wait = min(2*wait, 2*time.Second)
			continue
		}
		wait = 50 * time.Millisecond
		for _, c := range got {
			a.take(out, c)
		}
	}
}

// poll asks once. It asks again, with the new number, when a slot becomes free
// meanwhile; a claim whose answer is lost by that is given again.
func (a *Agent) poll(ctx context.Context, id snapshot.ID, free int) ([]api.Claim, error) {
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		c   *api.Claims
		err error
	}
	ch := make(chan answer, 1)
	go func() {
		c, err := a.o.Coordinator.Claims(call, id, api.ClaimRequest{
			Session: a.session, FreeSlots: free, WaitMS: claimWait.Milliseconds(),
		})
		ch <- answer{c, err}
	}()
	select {
	case got := <-ch:
		if got.err != nil {
			a.log.Debug("claims", "err", got.err)
			return nil, got.err
		}
		return got.c.Claims, nil
	case <-a.freed:
		cancel()
		if got := <-ch; got.err == nil { // it had come already
			return got.c.Claims, nil
		}
		return nil, nil
	}
}

// take gives a claim a slot and starts it. One that is running already was given
// twice; one without a free slot goes to somebody else when it is not accepted.
func (a *Agent) take(out context.Context, c api.Claim) {
	if err := checkClaim(&c); err != nil {
		a.log.Error("a claim that can't be right is not accepted", "attempt", c.Attempt, "err", err)
		return
	}
	ctx, cancel := context.WithCancelCause(out)
	r := &running{ref: api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch}, cancel: cancel}
	a.mu.Lock()
	slot := slices.Index(a.slots, false)
	_, twice := a.running[c.Attempt]
	if !twice && slot >= 0 {
		r.slot = slot + 1
		a.slots[slot] = true
		a.running[c.Attempt] = r
	}
	a.mu.Unlock()
	if twice || slot < 0 {
		cancel(nil)
		return
	}
	fail.Point("agent.claimed")
	a.jobs.Go(func() {
		defer cancel(nil)
		defer a.release(r)
		a.attempt(ctx, out, c, r)
	})
}

// release frees an attempt's slot.
func (a *Agent) release(r *running) {
	a.mu.Lock()
	delete(a.running, r.ref.Attempt)
	a.slots[r.slot-1] = false
	a.mu.Unlock()
	a.wake()
}

func (a *Agent) freeLocked() int {
	n := 0
	if a.draining {
		return 0
	}
	for _, used := range a.slots {
		if !used {
			n++
		}
	}
	return n
}

// checkClaim makes sure that all names in a claim may become paths.
func checkClaim(c *api.Claim) error {
	ids := []snapshot.ID{c.Attempt}
	for _, in := range c.Inputs {
		ids = append(ids, in.Snapshot)
	}
	for _, n := range c.Lineage {
		ids = append(append(ids, n.ID), n.Parents...)
	}
	for _, l := range c.Layers {
		ids = append(ids, l.ID)
		if l.Base != "" {
			ids = append(ids, l.Base)
		}
	}
	for _, id := range ids {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return err
		}
	}
	if c.Epoch <= 0 {
		return fmt.Errorf("epoch %d", c.Epoch)
	}
	return nil
}
