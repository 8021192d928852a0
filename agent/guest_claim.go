package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// offer is a slot whose runner wants a job. All but got is guarded by Agent.mu.
type offer struct {
	api.SlotOffer
	seq   int
	polls int // requests for work that told of it
	gone  bool
	got   chan *guest // gets one at most
	// refused gets one at most: why there will be no guest.
	refused chan error
}

// openOffersLocked lists the slots that want a job, those first that have waited
// longest.
func (a *Agent) openOffersLocked() ([]*offer, []api.SlotOffer) {
	if a.draining || a.noRoom {
		return nil, nil
	}
	var open []*offer
	for _, o := range a.offers {
		open = append(open, o)
	}
	slices.SortFunc(open, func(x, y *offer) int { return x.seq - y.seq })
	out := make([]api.SlotOffer, len(open))
	for i, o := range open {
		out[i] = o.SlotOffer
	}
	return open, out
}

// Claim implements plugin.Agent.
func (s served) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	a := s.a
	if o.Slot < 1 || o.Slot > len(a.slots) {
		return nil, fmt.Errorf("slot %d: there are slots 1 to %d: %w", o.Slot, len(a.slots), plugin.ErrInvalid)
	}
	if err := a.vacant(o.Slot); err != nil {
		return nil, err
	}
	if err := a.clearSlot(ctx, o.Slot); err != nil {
		return nil, fmt.Errorf("slot %d: %w: %w", o.Slot, plugin.ErrUnavailable, err)
	}
	of, err := a.makeOffer(o)
	if err != nil {
		return nil, err
	}
	a.wake()
	select {
	case g := <-of.got:
		return g.take(), nil
	case err := <-of.refused:
		return nil, err
	case <-ctx.Done():
	case <-a.quitting.Done():
	}
	if g := a.withdraw(of); g != nil {
		g.undelivered("the runner's request had ended")
	}
	return nil, nil //nolint:nilnil // as the contract says
}

// vacant reports whether a slot has no attempt.
func (a *Agent) vacant(slot int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.vacantLocked(slot)
}

func (a *Agent) vacantLocked(slot int) error {
	if a.slots[slot-1] {
		return fmt.Errorf("slot %d has a job: %w", slot, snapshot.ErrBusy)
	}
	return nil
}

// makeOffer shows a slot to the coordinator. An earlier call for the same slot has
// lost its runner by then, and ends.
func (a *Agent) makeOffer(o plugin.Offer) (*offer, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.vacantLocked(o.Slot); err != nil {
		return nil, err
	}
	if a.draining {
		return nil, errStopping
	}
	if old := a.offers[o.Slot]; old != nil {
		old.gone = true
	}
	a.offerSeq++
	of := &offer{
		SlotOffer: api.SlotOffer{Slot: o.Slot, Runner: o.Runner, Job: o.Job},
		seq:       a.offerSeq, got: make(chan *guest, 1), refused: make(chan error, 1),
	}
	a.offers[o.Slot] = of
	return of, nil
}

// withdraw ends an offer, and returns the guest that was given to it meanwhile.
func (a *Agent) withdraw(of *offer) *guest {
	a.mu.Lock()
	defer a.mu.Unlock()
	of.gone = true
	if a.offers[of.Slot] == of {
		delete(a.offers, of.Slot)
	}
	select {
	case g := <-of.got:
		return g
	default:
		return nil
	}
}

// refuse ends the offer of a job that a runner has already, if it is among those that were
// asked for.
func (a *Agent) refuse(asked []*offer, r api.Refusal) {
	err := fmt.Errorf("%.500s: %w", r.Reason, plugin.ErrInvalid)
	if r.Later {
		err = fmt.Errorf("%.500s: %w", r.Reason, plugin.ErrUnavailable)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.offers[r.Slot]
	if of == nil || of.Job == nil || !slices.Contains(asked, of) {
		return
	}
	of.gone = true
	delete(a.offers, r.Slot)
	of.refused <- err // there is room for one
}

// takeGuest gives a claim the slot of a runner that wants it. Without one it goes
// back at once.
func (a *Agent) takeGuest(out context.Context, c api.Claim) {
	r := &running{ref: api.AttemptRef{Attempt: c.Attempt, Epoch: c.Epoch}}
	a.mu.Lock()
	if _, twice := a.guests[c.Attempt]; twice || a.lostLocked() {
		a.mu.Unlock()
		return
	}
	of := a.pickLocked(c.External.Slot)
	if of != nil {
		r.slot = of.Slot
		a.slots[r.slot-1] = true
		delete(a.offers, r.slot)
		g := a.newGuest(out, &c, r)
		a.running[c.Attempt], a.guests[c.Attempt] = r, g
	}
	a.mu.Unlock()
	if of == nil {
		a.log.Info("no runner wants a claim any more", "attempt", c.Attempt, "job", c.Job.Name)
		a.spawn(func() { a.report(out, r.ref, goneBack("no runner of this host wants a job any more")) })
		return
	}
	fail.Point("agent.guest.claimed")
	a.log.Debug("claimed", "attempt", c.Attempt, "job", c.Job.Name, "slot", r.slot)
	if !a.spawn(func() { r.guest.accept(out, of) }) {
		a.release(r) // it is not accepted, and goes to somebody else
	}
}

// pickLocked finds the offer for a claim: that of the slot which it must go to, else
// the one that has waited longest.
func (a *Agent) pickLocked(slot int) *offer {
	open, _ := a.openOffersLocked()
	for _, o := range open {
		if slot == 0 && o.Job == nil || o.Slot == slot {
			return o
		}
	}
	return nil
}

// goneBack is the end of an attempt that no runner saw.
func goneBack(why string) api.Finish {
	return api.Finish{
		Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Code: api.FailUndelivered, Reason: why,
	}
}

// accept makes the attempt ours and hands it to its runner.
func (g *guest) accept(out context.Context, of *offer) {
	a, c := g.a, g.c
	a.sweepGuests()
	inputs, ancestors := a.promised(out, c)
	g.release = func() { inputs(); ancestors() }
	if err := g.save(); err != nil {
		a.log.Error("an attempt can't be noted down, and is not accepted", "attempt", c.Attempt, "err", err)
		g.forget()
		return
	}
	accept, cancel := context.WithTimeout(out, max(time.Duration(c.AcceptMS)*time.Millisecond, time.Second))
	err := a.retry(accept, "accept", func(ctx context.Context) error { return a.o.Coordinator.Accept(ctx, g.r.ref) })
	cancel()
	if err != nil {
		a.log.Info("a claim could not be accepted", "attempt", c.Attempt, "job", c.Job.Name, "err", err)
		g.forget()
		a.revive(of)
		return
	}
	fail.Point("agent.guest.accepted")
	g.log = a.openLog(g.r.ref, false)
	g.endLog = g.log.start(out)
	g.log.say("job %q on %s, slot %d, attempt %d", c.Job.Name, a.o.Name, g.r.slot, c.Number)
	g.accepted.Store(true)
	a.mu.Lock()
	gone := of.gone
	if !gone {
		of.got <- g // there is room for one
	}
	a.mu.Unlock()
	if gone {
		g.undelivered("the runner's request had ended")
	}
}

// forget drops a guest that was not accepted.
func (g *guest) forget() {
	g.release()
	g.remove()
	a := g.a
	a.mu.Lock()
	delete(a.guests, g.r.ref.Attempt)
	a.mu.Unlock()
	a.release(g.r)
}

// revive shows an offer again that got nothing.
func (a *Agent) revive(of *offer) {
	a.mu.Lock()
	if !of.gone && a.offers[of.Slot] == nil {
		a.offers[of.Slot] = of
	}
	a.mu.Unlock()
	a.wake()
}

// take makes the grant of a guest. Its payload is not kept.
func (g *guest) take() *plugin.Grant {
	g.mu.Lock()
	defer g.mu.Unlock()
	x := g.c.External
	out := &plugin.Grant{
		Attempt: g.r.ref.Attempt, Slot: g.r.slot, Payload: x.Payload, Log: x.Log,
		Age: time.Duration(x.AgeMS)*time.Millisecond + elapsed() - g.begin,
	}
	x.Payload, x.Log = nil, nil
	return out
}

// undelivered gives a guest back that no runner saw.
func (g *guest) undelivered(why string) {
	g.endOnce.Do(func() {
		g.discard(plugin.DiscardRequest{Attempt: g.r.ref.Attempt, Outcome: plugin.OutcomeUndelivered, Reason: why})
	})
}
