package agent

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// leftover is an attempt that an earlier process did not report.
type leftover struct {
	note   note
	sealed bool
	finish api.Finish
}

// refs names the attempts that this host still knows of.
func (a *Agent) refs(left []leftover) []api.AttemptRef {
	var out []api.AttemptRef
	for _, l := range left {
		out = append(out, l.note.Ref)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.running {
		out = append(out, r.ref)
	}
	return out
}

// recover ends what an earlier process of the agent left running, and finds out
// what it did not report. Views that were open stay for now: as long as they are
// there their attempts are known to have ended badly, also to a third process.
//
// Attempts in runners of their own are left as they are; todo is what there is to do
// about them.
func (a *Agent) recover(ctx, out context.Context) (left []leftover, todo []func(), err error) {
	keep := map[snapshot.ID]bool{}
	guests := map[snapshot.ID]store.OpenView{}
	for _, v := range a.o.Store.Views() {
		l := leftover{sealed: v.Sealed}
		bad := json.Unmarshal(v.Claim, &l.note)
		if bad == nil && l.note.Slot > 0 {
			guests[v.ID] = v
			continue
		}
		if err := a.killLeft(ctx, v.ID); err != nil {
			// What still runs can write to its view, but to nothing that is sealed: the
			// view is discarded. It must not run beside the next attempt, though.
			return nil, nil, fmt.Errorf("end what runs of attempt %s: %w", v.ID, err)
		}
		if bad != nil || l.note.Ref.Attempt != v.ID {
			a.log.Warn("a view without an attempt is discarded", "view", v.ID, "err", bad)
			a.letGo(ctx, v.ID, v.Sealed)
			continue
		}
		l.finish = api.Finish{
			Status: api.StatusFailed, Infrastructure: true, Code: api.FailAgentDied,
			Reason: "the agent died during the job and came back without it",
		}
		if v.Sealed {
			l.finish = a.sealedOutcome(ctx, &l, v.Outcome)
		}
		keep[v.ID] = true
		left = append(left, l)
	}
	if todo, err = a.recoverGuests(out, guests); err != nil {
		return nil, nil, err
	}
	for id, r := range a.running {
		keep[id] = keep[id] || r.guest != nil
	}
	a.sweepLogs(keep)
	fail.Point("agent.recovered")
	return left, todo, nil
}

// killLeft ends what an earlier process's adapter left running. A host that has a
// plugin now has no adapter to ask.
func (a *Agent) killLeft(ctx context.Context, id snapshot.ID) error {
	if a.o.Adapter == nil {
		return nil
	}
	return a.o.Adapter.Kill(ctx, id)
}

// sealedOutcome reads the report that was written with the seal. The layer may
// have become unusable since, by a power cut.
func (a *Agent) sealedOutcome(ctx context.Context, l *leftover, outcome []byte) api.Finish {
	f := api.Finish{}
	if err := json.Unmarshal(outcome, &f); err != nil {
		a.log.Error("a sealed view has no outcome that can be read", "attempt", l.note.Ref.Attempt, "err", err)
		return l.finish
	}
	info, err := a.o.Store.Lookup(l.note.Ref.Attempt)
	if err != nil {
		return noOutput(f, api.SealFailed, err.Error())
	}
	return a.judge(ctx, l.note, f, info)
}

// reportLeftovers reports under the old epochs. over are those that nobody asks
// for any more.
func (a *Agent) reportLeftovers(ctx context.Context, left []leftover, over map[snapshot.ID]bool) {
	for _, l := range left {
		if over[l.note.Ref.Attempt] {
			a.log.Info("an attempt of an earlier process is over", "attempt", l.note.Ref.Attempt)
			a.letGo(ctx, l.note.Ref.Attempt, l.sealed)
			continue
		}
		a.behind.Go(func() {
			log := a.openLog(l.note.Ref, true)
			log.say("the agent was started anew")
			log.say("%s", describe(l.finish))
			log.start(ctx)()
			a.finish(ctx, l.note.Ref, l.finish, l.sealed, func() {})
		})
	}
}
