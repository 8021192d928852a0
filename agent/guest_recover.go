package agent

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

const (
	// guestNotes is how long the note of an attempt that has ended stays: a plugin may ask
	// again until its system has answered, which takes a day at the worst.
	guestNotes = 48 * time.Hour
	// maxGuestNote bounds what is read of one.
	maxGuestNote = 4 << 20
)

// recoverGuests finds the guests that an earlier process left, and returns what to do
// about each once the agent is registered. views are those of guests in the store.
func (a *Agent) recoverGuests(out context.Context, views map[snapshot.ID]store.OpenView) ([]func(), error) {
	entries, err := os.ReadDir(a.guestDir())
	if err != nil {
		return nil, err
	}
	var todo []func()
	for _, e := range entries {
		n, err := a.readGuestNote(e)
		if err != nil {
			a.log.Warn("a note of an attempt is dropped", "file", e.Name(), "err", err)
			os.Remove(filepath.Join(a.guestDir(), e.Name())) //nolint:errcheck // tried again at the next start
			continue
		}
		if n == nil {
			continue
		}
		var view *store.OpenView
		if v, ok := views[n.Ref.Attempt]; ok {
			view = &v
			delete(views, n.Ref.Attempt)
		}
		todo = append(todo, a.reviveGuest(out, n, view))
	}
	for id, v := range views { // their notes were torn
		n := &guestNote{Boot: a.o.BootID}
		var of note
		if err := json.Unmarshal(v.Claim, &of); err != nil || of.Ref.Attempt != id {
			a.log.Warn("a view without an attempt is discarded", "view", id, "err", err)
			a.letGo(out, id, v.Sealed)
			continue
		}
		n.Ref, n.Slot, n.Claim.External = of.Ref, of.Slot, &api.External{}
		n.Place = notedPlace{View: filepath.Join(a.slotDir(of.Slot), "unknown"), Note: of}
		todo = append(todo, a.reviveGuest(out, n, &v))
	}
	return todo, nil
}

// readGuestNote reads one. nil: it is out of date, and was removed.
func (a *Agent) readGuestNote(e os.DirEntry) (*guestNote, error) {
	name, ok := strings.CutSuffix(e.Name(), ".json")
	if !ok {
		return nil, errors.New("half-written")
	}
	path := filepath.Join(a.guestDir(), e.Name())
	if fi, err := e.Info(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxGuestNote {
		return nil, errors.New("not a file of ours")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	n := &guestNote{}
	if err := json.Unmarshal(b, n); err != nil {
		return nil, err
	}
	if _, err := snapshot.ParseID(name); err != nil || string(n.Ref.Attempt) != name || n.Claim.External == nil || n.Slot < 1 {
		return nil, errors.New("it tells of another attempt")
	}
	if n.ended() && a.o.Now().Sub(time.UnixMilli(n.Over)) > guestNotes {
		return nil, os.Remove(path)
	}
	return n, nil
}

// reviveGuest makes a guest of a note, and returns what to do about it.
func (a *Agent) reviveGuest(out context.Context, n *guestNote, view *store.OpenView) func() {
	sealed := view != nil && view.Sealed
	lost := a.lostGuest(n, view)
	g := a.listGuest(out, n, sealed)
	if n.ended() {
		g.accepted.Store(true)
		g.endOnce.Do(func() { close(g.ended) })
		if view == nil {
			return func() {}
		}
		return func() { a.letGo(out, n.Ref.Attempt, sealed) } // somebody held it open
	}
	g.release = func() {}
	if n.Answer != nil && view == nil || !sealed {
		inputs, ancestors := a.promised(out, &n.Claim)
		g.release = func() { inputs(); ancestors() }
	}
	g.log = a.openLog(n.Ref, true)
	g.endLog = g.log.start(out)
	g.log.say("the agent was started anew")
	g.accepted.Store(true)
	return g.next(n, sealed, lost)
}

// listGuest lists the guest of a note as it was when the note was written.
func (a *Agent) listGuest(out context.Context, n *guestNote, sealed bool) *guest {
	r := &running{ref: n.Ref, slot: n.Slot, freed: true}
	g := a.newGuest(out, &n.Claim, r)
	g.note = *n
	a.mu.Lock()
	a.guests[n.Ref.Attempt] = g
	if !n.ended() {
		a.running[n.Ref.Attempt] = r
	}
	if !sealed && n.Finish == nil && !n.ended() && n.Slot <= len(a.slots) { // it is still in its slot
		r.freed, a.slots[n.Slot-1] = false, true
	}
	a.mu.Unlock()
	g.attachOnce.Do(func() { close(g.idle) })
	if n.Answer != nil || n.Refused != "" {
		close(g.attached)
	}
	return g
}

// next is what comes next for a guest that had not ended when its note was written: its end
// once more, or again the job itself. lost says why it can't go on, "" if it can.
func (g *guest) next(n *guestNote, sealed bool, lost string) func() {
	end := func(how func()) func() { // whoever asks for its end from now on waits for this one
		g.ends = true
		g.endOnce.Do(func() {})
		return how
	}
	want := g.a.durability(n.Claim.External)
	waits := want == durabilitySynced || want == durabilityDurable
	switch {
	case n.Finish != nil:
		return end(func() { g.endAgain(*n.Finish, sealed) })
	case sealed && !waits: // else the plugin says for how long
		return end(func() { g.seal(plugin.SealRequest{}, elapsed()) })
	case sealed:
		return func() {}
	case n.Answer == nil && n.Refused == "":
		return end(func() {
			g.discard(plugin.DiscardRequest{Outcome: plugin.OutcomeUndelivered, Reason: "the agent was stopped before a runner had the job"})
		})
	case lost != "":
		return end(func() { g.endLost(lost) })
	}
	g.a.log.Info("a job goes on", "attempt", n.Ref.Attempt, "slot", n.Slot)
	return func() { g.begun(n.Place.Workspace) } // it may not have been told
}

// lostGuest says why a job that had begun can't go on here, "" if it does.
func (a *Agent) lostGuest(n *guestNote, view *store.OpenView) string {
	switch {
	case n.Boot != a.o.BootID:
		return "the machine was restarted during the job"
	case a.plugin == nil:
		return "the agent came back without the plugin that ran the job"
	case n.Refused != "":
		return n.Refused
	case n.Place.View != "" && (view == nil || !view.Sealed && !view.InPlace):
		return "its workspace was gone when the agent came back"
	}
	return ""
}

// endLost ends a guest that can't go on.
func (g *guest) endLost(why string) {
	f := api.Finish{
		Status: api.StatusFailed, Infrastructure: true, Code: api.FailAgentDied, Reason: why, Workspace: g.note.Place.Workspace,
	}
	if g.note.RefusedCode != "" {
		f.Code, f.Infrastructure = g.note.RefusedCode, g.note.RefusedCode != api.FailConflict
	}
	t := &told{log: g.log}
	t.say("%s", describe(f))
	g.noteEnd(f)
	g.drop(t)
	g.tell(g.a.out, f, false, t)
}

// endAgain goes on with an end that was noted down.
func (g *guest) endAgain(f api.Finish, sealed bool) {
	t := &told{log: g.log}
	if !sealed {
		g.drop(t)
	}
	g.tell(g.a.out, f, sealed, t)
}

// sealedBefore returns the outcome that was written with the seal, if the view is sealed
// already.
func (g *guest) sealedBefore() (api.Finish, bool) {
	for _, v := range g.a.o.Store.Views() {
		if v.ID == g.r.ref.Attempt && v.Sealed {
			l := leftover{note: g.note.Place.Note}
			if l.note.Ref.Attempt == "" {
				l.note.Ref = g.r.ref
			}
			l.finish = noOutput(api.Finish{Status: api.StatusSuccess, Workspace: g.note.Place.Workspace}, api.SealFailed, "its outcome can't be read")
			f := g.a.sealedOutcome(g.a.out, &l, v.Outcome)
			return f, true
		}
	}
	return api.Finish{}, false
}

// sweepGuests forgets those that ended long ago, now and then.
func (a *Agent) sweepGuests() {
	a.mu.Lock()
	if a.swept != 0 && elapsed()-a.swept < 10*time.Minute {
		a.mu.Unlock()
		return
	}
	a.swept = elapsed()
	var all []*guest
	for _, g := range a.guests {
		all = append(all, g)
	}
	a.mu.Unlock()
	for _, g := range all {
		g.mu.Lock()
		old := g.note.ended() && a.o.Now().Sub(time.UnixMilli(g.note.Over)) > guestNotes
		g.mu.Unlock()
		if old {
			g.remove()
			a.mu.Lock()
			delete(a.guests, g.r.ref.Attempt)
			a.mu.Unlock()
		}
	}
}

// resumeGuests does what recoverGuests found to be done. over are attempts that are
// somebody else's by now.
func (a *Agent) resumeGuests(todo []func(), over map[snapshot.ID]bool) {
	fail.Point("agent.guest.recovered")
	for _, fn := range todo {
		a.spawn(fn)
	}
	for id := range over {
		a.cancel(id, errFenced)
	}
}
