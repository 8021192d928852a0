package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
)

// claimWait is how long the coordinator may keep a request for work.
const claimWait = 20 * time.Second

// claimPause is between requests while there is no answer.
const claimPause = 400 * time.Millisecond

// claims takes work for the free slots until ctx ends. Attempts run under out. A
// request is never broken off because a slot became free meanwhile, as its answer
// may be on the way: there is one for each free slot instead.
func (a *Agent) claims(ctx, out context.Context) {
	var polls sync.WaitGroup
	defer polls.Wait()
	for ctx.Err() == nil {
		a.mu.Lock()
		id, r := a.id, api.ClaimRequest{Session: a.session, FreeSlots: a.freeLocked(), WaitMS: claimWait.Milliseconds()}
		ask := a.polling < r.FreeSlots
		var asked []*offer
		if a.plugin != nil {
			asked, r.Offers = a.openOffersLocked()
			ask = slices.ContainsFunc(asked, func(o *offer) bool { return o.polls == 0 })
		}
		if ask = ask && !a.lostLocked(); ask {
			a.polling++
			for _, o := range asked {
				o.polls++
			}
		}
		a.mu.Unlock()
		if ask {
			polls.Go(func() { a.poll(ctx, out, id, r, asked) })
			continue
		}
		select {
		case <-a.freed:
		case <-ctx.Done():
		}
	}
}

// poll asks once and takes what it gets. After an error it waits before the next
// one may ask.
func (a *Agent) poll(ctx, out context.Context, id snapshot.ID, r api.ClaimRequest, asked []*offer) {
	got, err := a.o.Coordinator.Claims(ctx, id, r)
	if err == nil {
		for _, c := range got.Claims {
			a.take(out, c)
		}
		for _, r := range got.Refused {
			a.refuse(asked, r)
		}
	} else if ctx.Err() == nil {
		a.log.Debug("asking for work", "err", err)
		if notFound(err) {
			a.beatNow() // which registers again
		}
		pause.For(ctx, a.jitter(claimPause)) //nolint:errcheck // whoever asks next sees that ctx has ended
	}
	a.mu.Lock()
	a.polling--
	for _, o := range asked {
		o.polls--
	}
	a.mu.Unlock()
	a.wake()
}

// take gives a claim a slot and starts it. One that is running already was given
// twice; one that can't be taken goes to somebody else when it is not accepted.
func (a *Agent) take(out context.Context, c api.Claim) {
	if err := a.checkClaim(&c); err != nil {
		a.log.Error("a claim that can't be right is not accepted", "attempt", c.Attempt, "err", err)
		return
	}
	if c.External != nil {
		a.takeGuest(out, c)
		return
	}
	ctx, cancel := context.WithCancelCause(out)
	r := &running{ref: api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch}, cancel: cancel}
	a.mu.Lock()
	slot := slices.Index(a.slots, false)
	_, twice := a.running[c.Attempt]
	refuse := twice || slot < 0 || a.lostLocked() || a.draining
	if !refuse {
		r.slot = slot + 1
		a.slots[slot] = true
		a.running[c.Attempt] = r
	}
	a.mu.Unlock()
	if refuse {
		cancel(nil)
		return
	}
	fail.Point("agent.claimed")
	a.log.Debug("claimed", "attempt", c.Attempt, "job", c.Job.Name)
	a.jobs.Go(func() {
		defer cancel(nil)
		defer a.release(r)
		a.attempt(ctx, out, c, r)
	})
}

// release frees an attempt's slot. It may be called again.
func (a *Agent) release(r *running) {
	a.mu.Lock()
	if a.running[r.ref.Attempt] != r {
		a.mu.Unlock()
		return
	}
	delete(a.running, r.ref.Attempt)
	a.vacateLocked(r)
	a.mu.Unlock()
	a.wake()
}

// vacateLocked lets another attempt have the slot of r. It may be called again.
func (a *Agent) vacateLocked(r *running) {
	if !r.freed {
		r.freed = true
		a.slots[r.slot-1] = false
	}
}

func (a *Agent) freeLocked() int {
	n := 0
	if a.draining || a.noRoom {
		return 0
	}
	if a.plugin != nil {
		return len(a.offers)
	}
	for _, used := range a.slots {
		if !used {
			n++
		}
	}
	return n
}

// checkClaim makes sure that all names in a claim may become paths, and that it is
// for a host like this one.
func (a *Agent) checkClaim(c *api.Claim) error {
	if (c.External != nil) != (a.plugin != nil) {
		return errors.New("it is for another kind of host")
	}
	if x := c.External; x != nil && (!isName(x.Name) || x.Slot < 0 || x.Slot > len(a.slots)) {
		return fmt.Errorf("workspace %.80q in slot %d", x.Name, x.Slot)
	}
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

// isName reports whether s is a workspace's directory as the coordinator names it.
func isName(s string) bool {
	return len(s) == 26 && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}
