package plugintest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
)

// Calls of the plugin at which the suite may do something: before they are answered,
// and right after the answer is made.
const (
	atClaim, atGrant       = "claim", "grant"
	atAttach, atAttached   = "attach", "attached"
	atSeal, atSealed       = "seal", "sealed"
	atDiscard, atDiscarded = "discard", "discarded"
)

// What the agent says for logs.
const (
	lineBefore   = "roost: a line before the first byte"
	lineBehind   = "roost: a line behind the last byte"
	lineProgress = "roost: fetching"
)

// dirName is Workspace.Name.
const dirName = "abcdefghijklmnopqrstuvwxyz"

// agent is a plugin.Agent by the script of a test. It is strict about what the
// contract says of callers; what they do wrong is kept in wrong.
type agent struct {
	t     testing.TB
	root  string // slots are below
	slots []int

	mu       sync.Mutex
	queue    []*work // to be granted, where the agent brings jobs
	known    map[string]*work
	attempts map[snapshot.ID]*try
	order    []snapshot.ID
	asked    bool // this process asked what it holds
	claims   map[int]int
	wrong    []string
	more     chan struct{} // closed when the queue grew

	// at, if set, is called at each call of the plugin.
	at func(call string, tr *try)
	// attach, seal, discard, if set, answer instead.
	attach  func(tr *try) (*plugin.Workspace, error)
	seal    func(tr *try) (*plugin.Sealed, error)
	discard func(tr *try) error
}

// work is a job that the agent knows.
type work struct {
	TestJob
	payload []byte
	brought bool // by the plugin, in Offer.Job
}

// try is an attempt.
type try struct {
	id       snapshot.ID
	slot     int
	job      *work // nil: of an earlier process
	attached bool
	view     string
	sealed   *plugin.Sealed // how it ended, one of these two
	dropped  *plugin.DiscardRequest
	lost     bool
}

func (tr try) over() bool { return tr.sealed != nil || tr.dropped != nil }

func newAgent(t testing.TB, slots ...int) *agent {
	return &agent{
		t: t, root: t.TempDir(), slots: slots, known: map[string]*work{}, attempts: map[snapshot.ID]*try{},
		claims: map[int]int{}, more: make(chan struct{}),
	}
}

func (a *agent) complain(format string, args ...any) {
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

func (a *agent) call(name string, tr *try) {
	a.mu.Lock()
	at := a.at
	a.mu.Unlock()
	if at != nil {
		at(name, tr)
	}
}

// begin is a new process.
func (a *agent) begin() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = false
}

// expect is before a job is submitted: a plugin that brings it may be quick.
func (a *agent) expect(j *work) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.known[j.Name] = j
}

// submit is for a job that the agent brings.
func (a *agent) submit(j *work, payload []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	j.payload, j.brought = payload, false
	a.put(j)
}

func (a *agent) put(j *work) {
	a.queue = append(a.queue, j)
	close(a.more)
	a.more = make(chan struct{})
}

func (a *agent) Claim(ctx context.Context, o plugin.Offer) (*plugin.Grant, error) {
	a.mu.Lock()
	a.checkOffer(o)
	a.claims[o.Slot]++
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.claims[o.Slot]--
	}()
	a.call(atClaim, nil)
	j := a.next(ctx, o)
	if j == nil {
		return nil, nil
	}
	tr := a.grant(o.Slot, j)
	a.call(atGrant, tr)
	return &plugin.Grant{Attempt: tr.id, Slot: o.Slot, Payload: j.payload, Age: time.Second}, nil
}

func (a *agent) checkOffer(o plugin.Offer) {
	if !a.asked {
		a.complain("a claim before the process asked what it holds")
	}
	if !slices.Contains(a.slots, o.Slot) {
		a.complain("a claim for slot %d, which is not the plugin's", o.Slot)
	}
	if a.claims[o.Slot] > 0 {
		a.complain("two claims at a time for slot %d", o.Slot)
	}
	for _, tr := range a.attempts {
		if tr.slot == o.Slot && !tr.over() {
			a.complain("a claim for slot %d, which has a job", o.Slot)
		}
	}
}

// next waits for a job.
func (a *agent) next(ctx context.Context, o plugin.Offer) *work {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o.Job != nil {
		for _, j := range a.known {
			if bytes.Contains(o.Job, []byte(j.Name)) {
				j.payload = o.Job
				return j
			}
		}
		a.complain("the plugin offers a job that was never submitted")
		return nil
	}
	for ctx.Err() == nil {
		if len(a.queue) > 0 {
			j := a.queue[0]
			a.queue = a.queue[1:]
			return j
		}
		more := a.more
		a.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-more:
		}
		a.mu.Lock()
	}
	return nil
}

func (a *agent) grant(slot int, j *work) *try {
	a.mu.Lock()
	defer a.mu.Unlock()
	tr := &try{id: NewID(a.t), slot: slot, job: j}
	tr.view = filepath.Join(a.root, fmt.Sprint(slot), dirName)
	a.attempts[tr.id] = tr
	a.order = append(a.order, tr.id)
	return tr
}

// find is an attempt for a call of the plugin.
func (a *agent) find(id snapshot.ID) (*try, error) {
	tr := a.attempts[id]
	if tr == nil {
		a.complain("a call for attempt %s, which it was never granted", id)
		return nil, snapshot.ErrNotFound
	}
	return tr, nil
}

func (a *agent) Attach(_ context.Context, id snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
	a.mu.Lock()
	tr, err := a.find(id)
	if err == nil && tr.over() {
		a.complain("attach of an attempt that is over")
		err = snapshot.ErrNotFound
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a.call(atAttach, tr)
	for range 3 {
		progress(lineProgress)
	}
	var w *plugin.Workspace
	if a.attach != nil {
		w, err = a.attach(tr)
	} else {
		w, err = a.workspace(tr)
	}
	if err == nil {
		a.mu.Lock()
		tr.attached = true
		a.mu.Unlock()
	}
	a.call(atAttached, tr)
	return w, err
}

func (a *agent) workspace(tr *try) (*plugin.Workspace, error) {
	if err := os.MkdirAll(tr.view, 0o755); err != nil {
		return nil, err
	}
	return &plugin.Workspace{
		State: plugin.StateFull, View: tr.view, Name: filepath.Base(tr.view), Lines: []string{lineBefore},
		Env: map[string]string{"ROOST_WORKSPACE_STATE": plugin.StateFull},
	}, nil
}

func (a *agent) Seal(_ context.Context, s plugin.SealRequest) (*plugin.Sealed, error) {
	a.mu.Lock()
	tr, err := a.find(s.Attempt)
	if err == nil && tr.sealed != nil {
		defer a.mu.Unlock()
		return tr.sealed, nil // as before
	}
	if err == nil {
		a.checkSeal(tr, s)
	}
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	a.call(atSeal, tr)
	out := &plugin.Sealed{Output: NewID(a.t), Lines: []string{lineBehind}}
	if a.seal != nil {
		if out, err = a.seal(tr); err != nil {
			return nil, err
		}
	}
	a.mu.Lock()
	tr.sealed = out
	a.mu.Unlock()
	a.call(atSealed, tr)
	return out, nil
}

func (a *agent) checkSeal(tr *try, s plugin.SealRequest) {
	switch {
	case tr.dropped != nil:
		a.complain("seal of an attempt that was discarded")
	case tr.lost:
		a.complain("seal of an attempt that was lost")
	case !tr.attached:
		a.complain("seal of an attempt that was never attached")
	case tr.job == nil || tr.job.Exit != 0:
		a.complain("seal of an attempt that did not succeed")
	}
	if s.Run < 0 || s.Within < 0 {
		a.complain("seal with a negative duration: %+v", s)
	}
}

func (a *agent) Discard(_ context.Context, d plugin.DiscardRequest) error {
	a.mu.Lock()
	tr, err := a.find(d.Attempt)
	switch {
	case err != nil:
	case tr.dropped != nil:
		a.mu.Unlock()
		return nil
	case tr.sealed != nil:
		a.complain("discard (%s) of an attempt that was sealed", d.Outcome)
	case tr.job != nil && strings.Contains(d.Reason, tr.job.Secret):
		a.complain("the payload's secret stands in the reason of a discard")
	}
	a.mu.Unlock()
	if err != nil {
		return err
	}
	a.call(atDiscard, tr)
	if a.discard != nil {
		if err := a.discard(tr); err != nil {
			return err
		}
	}
	a.mu.Lock()
	if tr.dropped == nil {
		tr.dropped = &d
		if d.Outcome == plugin.OutcomeUndelivered && tr.job != nil && !tr.job.brought {
			a.put(tr.job) // for another host; here it is the same
		}
	}
	a.mu.Unlock()
	a.call(atDiscarded, tr)
	return nil
}

func (a *agent) Held(context.Context) ([]plugin.Held, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = true
	var out []plugin.Held
	for _, id := range a.order {
		if tr := a.attempts[id]; !tr.over() {
			out = append(out, plugin.Held{Attempt: id, Slot: tr.slot, Attached: tr.attached})
		}
	}
	return out, nil
}

// tries are the attempts of a job, in order.
func (a *agent) tries(name string) []try {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []try
	for _, id := range a.order {
		if tr := a.attempts[id]; tr.job != nil && tr.job.Name == name {
			out = append(out, *tr)
		}
	}
	return out
}

func (a *agent) complaints() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.wrong)
}

func (a *agent) names() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.known))
}
