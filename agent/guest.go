package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// guest is an attempt whose job runs in a runner of its own, which a plugin speaks
// for. The agent lends it a workspace, and learns from the plugin how it ended. It
// outlives the agent: what must be known of it is in its note.
//
// Crash states, by what is durable, and what the next process makes of each:
//  1. a note without an answer to Attach: no runner ever saw the job, it is given back.
//  2. an answer, no end: the job runs on. Its view is still there, and the plugin,
//     which finds it in Held, seals or discards it. If the view is gone, with the
//     machine, the attempt is reported as lost.
//  3. sealed, with its outcome in the same row: reported, or made durable first if
//     that was promised; Seal is answered as before.
//  4. an end in the note: reported. The note stays for a while, to answer again.
type guest struct {
	a     *Agent
	r     *running
	log   *jobLog
	begin time.Duration // when it was claimed, by elapsed

	// attach and end run once each; the channel is closed when there is an answer.
	attachOnce, endOnce, lostOnce sync.Once
	attached, ended               chan struct{}
	// idle is closed when nothing is being attached any more.
	idle chan struct{}
	// accepted says that the attempt is ours, and log, release and endLog are there.
	accepted atomic.Bool
	// stopAttach breaks an attach off.
	attachCtx  context.Context //nolint:containedctx // it outlives the call that began the attach
	stopAttach context.CancelCauseFunc
	// release lets go of what the store holds for it, endLog ends its log.
	release func()
	endLog  func()

	// mu guards all below. It is not held across I/O but for that of the note.
	mu   sync.Mutex
	note guestNote
	c    *api.Claim // with its secrets until it is attached
	hear []func(line string)
	// ends says that it ends without a word from the plugin.
	ends bool
}

// place is the view that the note tells of.
func (n *guestNote) place() *place {
	return &place{note: n.Place.Note, view: n.Place.View, path: n.Place.View, ws: n.Place.Workspace}
}

// served is what a plugin may call.
type served struct{ a *Agent }

var _ plugin.Agent = served{}

// errNoAttempt answers calls on what this host does not know, or forgot.
var errNoAttempt = fmt.Errorf("no such attempt here: %w", snapshot.ErrNotFound)

// errStopping answers calls that come when the agent ends. The next process knows.
var errStopping = fmt.Errorf("the agent is stopping: %w", plugin.ErrUnavailable)

func (a *Agent) guest(id snapshot.ID) (*guest, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	g := a.guests[id]
	if g == nil || !g.accepted.Load() {
		return nil, fmt.Errorf("attempt %.40q: %w", id, errNoAttempt)
	}
	return g, nil
}

// newGuest makes a guest of a claim that has a slot.
func (a *Agent) newGuest(out context.Context, c *api.Claim, r *running) *guest {
	g := &guest{
		a: a, r: r, c: c, begin: elapsed(), attached: make(chan struct{}), ended: make(chan struct{}),
		idle: make(chan struct{}), release: func() {}, endLog: func() {},
	}
	g.attachCtx, g.stopAttach = context.WithCancelCause(out)
	r.guest, r.cancel = g, g.stop
	g.note = guestNote{Ref: r.ref, Slot: r.slot, Boot: a.o.BootID, Claim: withoutSecrets(c)}
	return g
}

// Held implements plugin.Agent.
func (s served) Held(context.Context) ([]plugin.Held, error) {
	s.a.mu.Lock()
	var all []*guest
	for _, g := range s.a.guests {
		all = append(all, g)
	}
	s.a.mu.Unlock()
	var out []plugin.Held
	for _, g := range all {
		select {
		case <-g.ended:
			continue
		default:
		}
		g.mu.Lock()
		if !g.ends && g.accepted.Load() {
			out = append(out, plugin.Held{Attempt: g.note.Ref.Attempt, Slot: g.note.Slot, Attached: g.note.Answer != nil})
		}
		g.mu.Unlock()
	}
	slices.SortFunc(out, func(x, y plugin.Held) int { return x.Slot - y.Slot })
	return out, nil
}

// spawn runs fn beside the call that asked for it, and reports whether it does: not
// when the agent is about to end.
func (a *Agent) spawn(fn func()) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return false
	}
	a.jobs.Go(fn)
	return true
}

// stop is called with the reason why an attempt should stop. The host's lease, or the
// agent's end, is none: the job's own system lets nobody else report it.
func (g *guest) stop(why error) {
	if errors.Is(why, errShutdown) {
		g.stopAttach(why)
		return
	}
	if why == nil || errors.Is(why, errLease) || !g.accepted.Load() { // else it is said again
		return
	}
	g.lostOnce.Do(func() {
		g.stopAttach(why)
		g.a.spawn(func() { g.lost(why) })
	})
}

// lost has the plugin stop the job, and takes the workspace away if it does not.
func (g *guest) lost(why error) {
	a := g.a
	ctx, cancel := context.WithCancel(a.out)
	defer cancel()
	stop := context.AfterFunc(a.quitting, cancel)
	defer stop()
	if g.over(ctx, 0) {
		return
	}
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := a.plugin.Lost(ctx, g.r.ref.Attempt, why.Error())
		if err == nil {
			break
		}
		a.log.Warn("the plugin can't be told that an attempt is lost", "attempt", g.r.ref.Attempt, "err", err)
		if g.over(ctx, wait) {
			return
		}
	}
	if g.over(ctx, a.o.LostWait) {
		return
	}
	a.log.Error("a lost job was not stopped in time; its workspace is taken away", "attempt", g.r.ref.Attempt, "why", why)
	d := plugin.DiscardRequest{Attempt: g.r.ref.Attempt, Outcome: plugin.OutcomeSystem, Reason: why.Error()}
	if errors.Is(why, errCanceled) {
		d.Outcome = plugin.OutcomeCanceled
	}
	g.endOnce.Do(func() { g.discard(d) })
}

// over waits for the attempt's end, and reports whether it came, or ctx's, within d.
func (g *guest) over(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-g.ended:
	case <-ctx.Done():
	case <-t.C:
		return false
	}
	return true
}

// hasGuests reports whether jobs go on in runners of their own.
func (a *Agent) hasGuests() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.running {
		if r.guest != nil {
			return true
		}
	}
	return false
}
