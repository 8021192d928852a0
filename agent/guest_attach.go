package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// told keeps what is said into an attempt's log for the job's own log too.
type told struct {
	log   *jobLog
	mu    sync.Mutex
	lines []string
}

func (t *told) say(format string, args ...any) {
	line := oneLine(fmt.Sprintf(format, args...))
	t.log.say("%s", line)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, "roost: "+line)
}

func (t *told) list() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.lines
}

// oneLine makes a line of text that may hold names from anywhere.
func oneLine(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}

// Attach implements plugin.Agent. The attach goes on when the call ends: the next one
// gets its answer.
func (s served) Attach(ctx context.Context, id snapshot.ID, progress func(line string)) (*plugin.Workspace, error) {
	g, err := s.a.guest(id)
	if err != nil {
		return nil, err
	}
	if progress != nil {
		defer g.listen(progress)()
	}
	g.attachOnce.Do(func() {
		if !s.a.spawn(g.attach) {
			close(g.idle)
		}
	})
	select {
	case <-g.attached:
	case <-g.ended:
		return nil, fmt.Errorf("attempt %s is over: %w", id, snapshot.ErrNotFound)
	case <-s.a.quitting.Done(): // the next process gives the job back
		return nil, errStopping
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.note.Over > 0 || g.ends {
		return nil, fmt.Errorf("attempt %s is over: %w", id, snapshot.ErrNotFound)
	}
	if g.note.Answer == nil {
		return nil, &plugin.Error{Code: string(g.note.RefusedCode), Text: g.note.Refused}
	}
	return g.note.Answer, nil
}

// listen adds somebody who hears how far an attach is, until the returned function
// is called.
func (g *guest) listen(fn func(string)) (stop func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := len(g.hear)
	g.hear = append(g.hear, fn)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.hear[i] = func(string) {}
	}
}

func (g *guest) progress(line string) {
	g.mu.Lock()
	fns := append([]func(string){}, g.hear...)
	g.mu.Unlock()
	for _, fn := range fns {
		fn(line)
	}
}

// attach makes the workspace and the answer. When the agent is stopped in the middle
// there is none: the next process gives the job back.
func (g *guest) attach() {
	defer close(g.idle)
	ctx, a, c := g.attachCtx, g.a, g.c
	t := &told{log: g.log}
	p, err := g.lend(ctx, t)
	if errors.Is(context.Cause(ctx), errShutdown) {
		return
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	serr := g.change(func(n *guestNote) {
		if err != nil {
			f := a.attachFailed(ctx, err, t)
			n.Refused, n.RefusedCode = oneLine(f.Reason), f.Code
			return
		}
		n.Place = notedPlace{View: p.view, Workspace: p.ws, Note: p.note}
		n.Answer = a.answer(c, p, t.list())
	})
	if serr != nil { // a job that the next process does not know must not run
		a.log.Error("the note of an attempt can't be written", "attempt", g.r.ref.Attempt, "err", serr)
		g.mu.Lock()
		g.note.Answer, g.note.Refused, g.note.RefusedCode = nil, serr.Error(), api.FailAttach
		g.mu.Unlock()
		err = serr
	}
	fail.Point("agent.guest.attached")
	g.mu.Lock()
	g.c = &g.note.Claim // the rest was secrets, or is not needed any more
	g.mu.Unlock()
	close(g.attached)
	if err == nil {
		a.spawn(func() { g.begun(p.ws) })
	}
}

// lend makes the view.
func (g *guest) lend(ctx context.Context, t *told) (*place, error) {
	a, c := g.a, g.c
	begin := elapsed()
	if err := a.clearSlot(ctx, g.r.slot); err != nil {
		return nil, &fault{api.FailAttach, fmt.Errorf("the slot's directory can't be emptied: %w", err)}
	}
	for _, n := range c.External.Notes {
		t.say("%s", n)
	}
	if off := c.External.Off; off != "" {
		t.say("workspace OFF: %s", off)
		ws := api.Workspace{
			State: api.StateFresh, Origin: api.OriginNone, Source: api.SourceNone,
			Code: api.WorkspaceOff, Reason: off, Driver: a.o.Store.Driver().Name(),
		}
		return &place{ws: ws, note: note{Ref: g.r.ref, Job: c.Job.Name, Slot: g.r.slot}}, nil
	}
	at := a.newAttaching(c, g.r.slot, begin, t)
	at.spec.Outlives = true
	at.progress = g.progress
	p, err := at.run(ctx)
	if err != nil {
		return nil, err
	}
	if p.view != "" {
		a.sayWorkspace(c, p, t)
	}
	return p, nil
}

// answer says what a plugin wants to know of a place.
func (a *Agent) answer(c *api.Claim, p *place, lines []string) *plugin.Workspace {
	w := &plugin.Workspace{
		State: p.ws.State, View: p.view, Lines: lines, Code: string(p.ws.Code), Reason: oneLine(p.ws.Reason),
	}
	if c.External.Off != "" {
		w.State = plugin.StateOff
	}
	if w.View != "" {
		w.Name = c.External.Name
	}
	if w.State == plugin.StateFull {
		w.Contained = c.External.Contained
	}
	w.Env = map[string]string{
		"ROOST": "true", "ROOST_HOST": a.o.Name, "ROOST_ATTEMPT_ID": string(c.Attempt), "ROOST_PIPELINE_ID": c.Pipeline,
		"ROOST_WORKSPACE_STATE": w.State, "ROOST_WORKSPACE_ORIGIN": p.ws.Origin, "ROOST_WORKSPACE_REASON": w.Reason,
	}
	if w.State != plugin.StateOff { // what holds, whoever has said it: the job, or its pool
		w.Env["ROOST_DURABILITY"] = cmp.Or(a.durability(c.External), durabilityLocal)
	}
	return w
}

// begun tells the coordinator what the job starts from. It is waited for by nobody.
func (g *guest) begun(ws api.Workspace) {
	a := g.a
	ctx, cancel := context.WithCancel(a.out)
	defer cancel()
	defer context.AfterFunc(a.quitting, cancel)()
	go func() {
		select {
		case <-g.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	err := a.retry(ctx, "start", func(ctx context.Context) error {
		return a.o.Coordinator.Start(ctx, g.r.ref, api.Start{Workspace: ws})
	})
	switch {
	case err == nil || ctx.Err() != nil:
	case fenced(err) || notFound(err):
		g.stop(errFenced)
	default:
		a.log.Warn("start", "attempt", g.r.ref.Attempt, "err", err)
	}
}
