package agent

import (
	"context"
	"os"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
)

// tell reports the end to the coordinator, and answers the plugin when that is done, or
// when it takes too long.
func (g *guest) tell(ctx context.Context, f api.Finish, sealed bool, t *told) {
	a := g.a
	g.noteEnd(f)
	a.free(g.r)
	answered := make(chan *api.Finished, 1)
	if !a.spawn(func() { g.report(f, sealed, answered) }) {
		answered <- nil
	}
	timer := time.NewTimer(a.tellWait)
	defer timer.Stop()
	var got *api.Finished
	known := false
	select {
	case got = <-answered:
		known = got != nil
	case <-timer.C:
	case <-ctx.Done():
	}
	if !known && sealed {
		// Its system hears of a success that the coordinator does not know of: a power cut
		// must not make another end of it.
		if err := a.o.Store.Settle(ctx); err != nil {
			a.log.Warn("the end of an attempt may not survive a power cut", "attempt", g.r.ref.Attempt, "err", err)
		}
	}
	if f.Status == api.StatusSuccess || f.Code == api.FailDurable || sealed {
		g.answerSeal(f, got, known, t)
	}
	if err := g.change(func(n *guestNote) { n.Over = a.o.Now().UnixMilli() }); err != nil {
		a.log.Warn("the end of an attempt can't be noted down", "attempt", g.r.ref.Attempt, "err", err)
	}
	close(g.ended)
}

// answerSeal makes the answer of Seal.
func (g *guest) answerSeal(f api.Finish, got *api.Finished, known bool, t *told) {
	s := &plugin.Sealed{Output: f.Output, Failed: f.Status != api.StatusSuccess}
	if f.Output == "" {
		s.Reason = oneLine(f.Reason)
	}
	switch {
	case known && !got.Output && f.Output != "":
		s.Output, s.Reason = "", "the coordinator did not take it"
		t.say("the coordinator did not take the output")
	case !known:
		t.say("the coordinator does not answer; it hears of this job later")
	}
	s.Lines = t.list()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.note.Sealed == nil { // else the plugin was answered by an earlier process
		g.note.Sealed = s
	}
}

// report tells the coordinator until it has answered, hands that on at once, and then
// lets go of the attempt. nil: it could not be told, or the attempt was somebody else's.
func (g *guest) report(f api.Finish, sealed bool, answered chan<- *api.Finished) {
	a := g.a
	g.endLog()
	got, told := a.report(a.out, g.r.ref, f)
	answered <- got // there is room for it
	if !told {
		return
	}
	if sealed {
		a.letGo(a.out, g.r.ref.Attempt, true)
	}
	a.reported(a.out, g.r.ref, f, sealed, got)
	os.Remove(a.logPath(g.r.ref.Attempt)) //nolint:errcheck // the next start sweeps
	if err := g.change(func(n *guestNote) { n.Told = true }); err != nil {
		a.log.Warn("a report can't be noted down", "attempt", g.r.ref.Attempt, "err", err)
	}
	g.release()
	a.release(g.r)
}
