package gitlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/gitlablog"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// hand is a job between the agent's grant and the runner. Exactly one of these happens to
// it: a request takes it; it is given back; it ends.
type hand struct {
	sl    *slot
	grant *plugin.Grant
	offer plugin.Offer
	since time.Time // when it was granted
	job   *job
	body  rawObject // its payload
	info  jobInfo
	work  *plugin.Workspace

	ready chan struct{} // closed when the workspace is
	ended chan struct{} // closed when nothing of it is left here
	taken chan struct{} // closed when a request has it

	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// Why a job that was granted does not reach its runner.
var (
	errGone     = errors.New("its runner has gone")
	errOver     = errors.New("it was canceled")
	errAwaited  = errors.New("it was canceled, and GitLab waits for its end")
	errRequired = errors.New("its workspace can't be had")

	errUnreadable = errors.New("the job can't be read")
)

func newHand(sl *slot, g *plugin.Grant, offer plugin.Offer) *hand {
	h := &hand{
		sl: sl, grant: g, offer: offer, since: sl.s.now(),
		ready: make(chan struct{}), ended: make(chan struct{}), taken: make(chan struct{}),
	}
	h.ctx, h.cancel = context.WithCancelCause(sl.s.life)
	return h
}

// adopt keeps it for a request that came; orphan drops it after a while without
// one; drop does so at once. Called with slot.mu held.
func (h *hand) adopt() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
		h.timer = nil
	}
}

func (h *hand) orphan(after time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(after, func() {
		h.sl.mu.Lock()
		defer h.sl.mu.Unlock()
		if h.sl.hand == h && h.sl.waiter == nil {
			h.drop(errGone)
		}
	})
}

func (h *hand) drop(why error) { h.cancel(why) }

// run is the life of a hand.
func (h *hand) run(context.Context) {
	s := h.sl.s
	s.mu.Lock()
	s.hands[h.grant.Attempt] = h
	s.mu.Unlock()
	defer func() {
		h.cancel(nil)
		h.sl.forget(h)
		s.mu.Lock()
		delete(s.hands, h.grant.Attempt)
		s.mu.Unlock()
		close(h.ended)
	}()
	log := s.log.With("attempt", string(h.grant.Attempt), "slot", h.grant.Slot)
	if err := h.open(); err != nil {
		log.Error("a job that can't be read", "error", err)
		s.discard(s.life, plugin.DiscardRequest{Attempt: h.grant.Attempt, Outcome: plugin.OutcomeSystem, Reason: err.Error()})
		return
	}
	log = log.With("job", h.info.ID)
	err := h.prepare()
	if err == nil {
		close(h.ready)
		select {
		case <-h.taken:
			return
		case <-h.ctx.Done():
			err = context.Cause(h.ctx)
		}
		if !h.sl.forget(h) { // it was taken at the same moment
			return
		}
	}
	log.Info("a job was not handed out", "why", err)
	h.giveUp(err)
}

// unknownBytes is what the coordinator has in the place of lines that a host wrote which
// gave the job back: their length is right. A line that says so much of itself costs the
// trace its checksum and nothing else.
var unknownBytes = []byte("????????")

// open reads the payload.
func (h *hand) open() error {
	info, body, err := readJob(h.grant.Payload)
	if err != nil {
		return err
	}
	s := h.sl.s
	h.info, h.body = info, body
	log, foreign := h.grant.Log, int64(0)
	if bytes.Contains(log, unknownBytes) {
		log, foreign = nil, int64(len(log))
	}
	h.job = s.newJob(record{
		Version: recordVersion, Attempt: h.grant.Attempt, Slot: h.sl.cfg.Number, Job: info.ID,
		Token: info.Token, TokenHash: hashToken(info.Token), Deps: info.Deps,
		State: stateDelivering, Announces: announces(h.offer.Runner), Plain: !gitlablog.HasTimes(h.offer.Runner, timesFlag(body)), Prefix: log, Foreign: foreign,
		Deadline: s.now().Add(info.Timeout + 5*time.Minute - h.grant.Age),
	})
	return nil
}

// timesFlag is the job's FF_TIMESTAMPS, "" if it does not set it.
func timesFlag(body rawObject) string {
	v, err := readVariables(body.get("variables"))
	if err != nil {
		return ""
	}
	flag, _ := v.value("FF_TIMESTAMPS")
	return flag
}

// prepare makes the workspace. Meanwhile GitLab hears that somebody has the job, and
// people see what takes so long.
func (h *hand) prepare() error {
	lines := make(chan string, 16)
	talk, done := context.WithCancel(h.ctx)
	var talking sync.WaitGroup
	talking.Go(func() { h.say(talk, lines) })
	h.sl.s.spawn(func(context.Context) { h.keep() })
	work, err := h.attach(func(line string) {
		select {
		case lines <- line:
		default: // people read slower than that
		}
	})
	done()
	talking.Wait()
	switch {
	case h.ctx.Err() != nil:
		return context.Cause(h.ctx)
	case errors.Is(err, snapshot.ErrNotFound):
		return fmt.Errorf("%w: %w", errLost, err) // the agent has ended it
	case err != nil:
		return fmt.Errorf("%w: %w", errRequired, err)
	}
	h.work = work
	if _, err := h.edit().apply(h.body, h.info); err != nil {
		return fmt.Errorf("%w: %w", errUnreadable, err) // another host could not either
	}
	// They are sent when the runner has the job: what a host writes and then gives the
	// job back, the next host does not know.
	h.job.trace.add(work.Lines...)
	return nil
}

// attach asks for the workspace. An agent that can't say is asked again: what it
// comes to is its word, or nobody's.
func (h *hand) attach(progress func(string)) (work *plugin.Workspace, err error) {
	for tries := h.sl.s.tries(); ; {
		work, err = h.sl.s.agent.Attach(h.ctx, h.grant.Attempt, progress)
		again := errors.Is(err, plugin.ErrUnavailable) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
		if !again || tries.Wait(h.ctx, 0) != nil {
			return work, err
		}
	}
}

// say puts progress lines into the trace as they come.
func (h *hand) say(ctx context.Context, lines <-chan string) {
	for {
		select {
		case line := <-lines:
			h.job.trace.add(line)
			h.job.sendPrefix(ctx) //nolint:errcheck // before the runner's first byte it is tried again
		case <-ctx.Done():
			return
		}
	}
}

// keep keeps the job alive in GitLab until a runner has it.
func (h *hand) keep() {
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	stop := context.AfterFunc(h.ctx, cancel)
	defer stop()
	go func() {
		select {
		case <-h.taken:
			cancel()
		case <-ctx.Done():
		}
	}()
	if !h.job.keepAlive(ctx, "pending") {
		return
	}
	h.job.mu.Lock()
	canceling := h.job.canceled == "canceling"
	h.job.mu.Unlock()
	if canceling {
		h.drop(errAwaited)
		return
	}
	h.drop(errOver)
}

// giveUp ends a job that no runner has seen.
func (h *hand) giveUp(err error) {
	s, d := h.sl.s, plugin.DiscardRequest{Attempt: h.grant.Attempt, Reason: err.Error()}
	switch {
	case errors.Is(err, errOver) || errors.Is(err, errLost):
		d.Outcome = plugin.OutcomeCanceled
	case errors.Is(err, errRequired) || errors.Is(err, errUnreadable):
		h.refuse(err, plugin.OutcomeSystem)
		return
	case errors.Is(err, errAwaited):
		h.refuse(err, plugin.OutcomeCanceled)
		return
	default:
		d.Outcome = plugin.OutcomeUndelivered
	}
	s.discard(s.life, d)
}

// refuse ends a job that needs a workspace and can't have it, or that is to end before it
// begins: GitLab is told why, and that it is no fault of the script's.
func (h *hand) refuse(err error, out plugin.Outcome) {
	j := h.job
	prefix, foreign, known := j.trace.lines()
	j.mu.Lock()
	j.rec.Prefix, j.rec.Foreign, j.rec.Logged, j.rec.Handed = prefix, foreign, known, j.s.now()
	j.mu.Unlock()
	// Only then it is listed: who looks for jobs whose runners are silent must not find one
	// without an end.
	j.end(final{Outcome: out, Reason: err.Error(), Counted: true})
	h.sl.mu.Lock()
	h.sl.job = j
	h.sl.mu.Unlock()
	h.sl.s.enlist(j)
}
