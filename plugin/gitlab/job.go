package gitlab

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/plugin"
)

// job is one attempt that was granted, from its record's point of view.
type job struct {
	s  *service
	id string

	// ctx ends when nothing of the job may go upstream any more, or with the service.
	ctx  context.Context
	lose context.CancelCauseFunc

	trace trace

	// saving is held over a change of the record and its way to the disk, so that
	// records reach the disk in order. mu guards the fields below and is not.
	saving   sync.Mutex
	mu       sync.Mutex
	rec      record
	heard    time.Time // when the runner's last call about it began or ended
	calls    int       // calls under way
	updated  bool      // there was an update
	canceled string    // what GitLab said of its end before we did
	told     time.Time // when the runner was first told to stop
	fin      *finishing
	freed    chan struct{} // closed when the slot may have another job
	free     bool
}

var errLost = errors.New("the job is not this host's any more")

func (s *service) newJob(rec record) *job {
	j := &job{s: s, id: rec.Job, rec: rec, heard: s.now(), freed: make(chan struct{})}
	j.trace = trace{now: s.now, plain: rec.Plain, prefix: rec.Prefix, foreign: rec.Foreign, size: -1, begun: rec.begun, marked: rec.begun}
	j.trace.known = j.trace.end()
	if !rec.Handed.IsZero() && !rec.begun { // the prefix may have been on its way when we died
		j.trace.known, j.trace.doubts = max(rec.Logged, rec.Foreign), append(slices.Clone(rec.Doubts), j.trace.end())
	}
	j.ctx, j.lose = context.WithCancelCause(s.life)
	return j
}

// record is a copy. What its pointers lead to is never changed, only replaced.
func (j *job) record() record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.rec
}

// change makes a change durable and then true.
func (j *job) change(f func(r *record)) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	next := j.record()
	if next.Final != nil {
		fin := *next.Final
		next.Final = &fin
	}
	f(&next)
	if err := j.s.recs.save(&next); err != nil {
		return err
	}
	j.mu.Lock()
	j.rec = next
	j.mu.Unlock()
	return nil
}

// must is change for what has happened already: a disk that refuses is told to people, and what
// we know is kept in memory.
func (j *job) must(f func(r *record)) {
	if err := j.change(f); err != nil {
		j.s.log.Error("a job's record can't be written; a restart now would not know how far it is", "job", j.id, "error", err)
		j.mu.Lock()
		if j.rec.Final != nil {
			fin := *j.rec.Final
			j.rec.Final = &fin
		}
		f(&j.rec)
		j.mu.Unlock()
	}
}

// holds reports whether token is the job's.
func (j *job) holds(token string) bool {
	return sameToken(hashToken(token), j.record().TokenHash)
}

func sameToken(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// begin counts a call of the runner about the job; end it with the func.
func (j *job) begin() func() {
	j.mu.Lock()
	j.calls++
	j.heard = j.s.now()
	j.mu.Unlock()
	return func() {
		j.mu.Lock()
		j.calls--
		j.heard = j.s.now()
		j.mu.Unlock()
	}
}

// silent is how long nothing was heard of the runner about the job.
func (j *job) silent() time.Duration {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.calls > 0 {
		return 0
	}
	return j.s.now().Sub(j.heard)
}

// ack notes that the runner has the job, before anything of it goes on. It must
// not be forgotten if we die: the job would be given to somebody else.
func (j *job) ack() error {
	if j.record().State != stateDelivering {
		return nil
	}
	j.saving.Lock()
	defer j.saving.Unlock()
	if err := j.s.recs.mark(j.record().Attempt, markGot); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.rec.State == stateDelivering {
		j.rec.State = stateRunning
	}
	return nil
}

// note keeps what GitLab says of the job's state.
func (j *job) note(a *answer) {
	status := a.jobStatus()
	switch {
	case status == "canceling" || status == "canceled" || status == "failed":
	case status == "" && a.over():
		status = "canceled"
	default:
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.canceled == "" || j.canceled == "canceling" {
		j.canceled = status
	}
	if j.told.IsZero() && status != "canceling" {
		j.told = j.s.now()
	}
}

// release lets the slot have another job.
func (j *job) release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if !j.free {
		j.free = true
		close(j.freed)
	}
}

// headers are those of a call in the job's name.
func (j *job) headers(contentType string) http.Header {
	return http.Header{
		"Job-Token":    {j.record().Token},
		"Content-Type": {contentType},
		"Accept":       {"application/json"},
	}
}

// put sends an update of ours.
func (j *job) put(ctx context.Context, body rawObject) (*answer, error) {
	body.set("token", j.record().Token)
	a, err := j.s.up.do(ctx, http.MethodPut, "api/v4/jobs/"+j.id, "", j.headers("application/json"), body.bytes())
	if err != nil {
		return nil, fmt.Errorf("job %s: %w", j.id, err)
	}
	j.note(a)
	return a, nil
}

// acknowledge tells GitLab that the job runs, where that must be the first word of it.
func (j *job) acknowledge(ctx context.Context) error {
	a, err := j.put(ctx, rawObject{{"state", encode("running")}})
	if err == nil && a.status != http.StatusOK {
		err = fmt.Errorf("job %s: GitLab does not take that it runs: status %d", j.id, a.status)
	}
	return err
}

// awaitEvery is how often GitLab is asked while a job gets its workspace.
const awaitEvery = 5 * time.Second

// keepAlive tells GitLab each interval that somebody has the job, and hears from it whether it
// still wants it. state is "pending" as long as no runner has it: a GitLab with two-phase
// commit keeps it for us then, one without refuses and is told "running".
// It returns when ctx ends, or when the job is over; one that no runner has is over, too, when
// GitLab wants it to end.
func (j *job) keepAlive(ctx context.Context, state string) (over bool) {
	waits := state == "pending"
	every := ms(j.s.cfg.KeepAliveMS)
	if waits { // nobody else hears of a cancel
		every = min(every, awaitEvery)
	}
	for {
		if pause.For(ctx, every) != nil {
			return false
		}
		callCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
		a, err := j.put(callCtx, rawObject{{"state", encode(state)}})
		cancel()
		switch {
		case err != nil:
		case a.over(), waits && a.jobStatus() == "canceling":
			return true
		case state == "pending" && (a.status == http.StatusBadRequest || a.status == http.StatusConflict):
			state = "running"
		}
	}
}

// discard tells the agent until it has heard.
func (s *service) discard(ctx context.Context, d plugin.DiscardRequest) bool {
	return s.tell(ctx, "discard", func(ctx context.Context) error { return s.agent.Discard(ctx, d) })
}
