package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

const (
	// maxWait bounds every long-poll.
	maxWait = 60 * time.Second
	// redeliver is after what time a claim that was not accepted is told again: its
	// answer may have been lost, as when the agent gave a poll up just then.
	redeliver = 250 * time.Millisecond
)

// claiming is a host that asks for work.
type claiming struct {
	agent   snapshot.ID
	request api.ClaimRequest
	host    string
	base    string // under which address it reached us
}

// claims waits until there is a job for a host, or the time is over.
func (s *Server) claims(ctx context.Context, agent snapshot.ID, r api.ClaimRequest, base string) (api.Claims, error) {
	out := api.Claims{Claims: []api.Claim{}}
	c := claiming{agent: agent, request: r, base: base}
	// Not cut off: a poll that began must be known to end.
	if err := s.do(context.WithoutCancel(ctx), func(t *txn) (err error) {
		c.host, err = t.poll(agent, r)
		return err
	}); err != nil {
		return out, err
	}
	defer s.do(context.WithoutCancel(ctx), func(t *txn) error { //nolint:errcheck // it can't fail
		t.pollEnds(c.host, ctx.Err() == nil)
		return nil
	})
	var err error
	if out.Refused, err = s.takeOffered(ctx, c.host, r.Offers); err != nil {
		return out, err
	}
	wait := min(time.Duration(r.WaitMS)*time.Millisecond, maxWait)
	if len(out.Refused) > 0 {
		wait = 0 // there is something to tell
	}
	out.Claims, err = s.await(ctx, &c, wait)
	return out, err
}

// await looks for claims until there are some or the time is over, once at least.
func (s *Server) await(ctx context.Context, c *claiming, wait time.Duration) ([]api.Claim, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := wait <= 0; ; {
		changed, stop := s.hub.wait(claimsOf(c.host))
		got, again, err := s.deliver(ctx, c)
		if err != nil || len(got) > 0 || over {
			stop()
			return got, err
		}
		select {
		case <-changed:
		case <-again:
		case <-timer.C:
			over = true
		case <-ctx.Done():
		case <-s.stopping:
			over = true
		}
		stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// deliver gives what there is for a host now. again, if it is not nil, tells when a claim
// that was told just now may be told once more.
func (s *Server) deliver(ctx context.Context, c *claiming) (got []api.Claim, again <-chan time.Time, err error) {
	var told []api.Claim
	var jobs []string
	recent := false
	if err := s.do(ctx, func(t *txn) error {
		if _, _, err := t.caller(c.agent, c.request.Session); err != nil {
			return err
		}
		told, jobs, recent = t.deliver(c.host, c.base, c.request.FreeSlots)
		return nil
	}); err != nil {
		return nil, nil, err
	}
	if recent {
		again = time.After(redeliver)
	}
	got, err = s.addPayloads(ctx, told, jobs)
	return got, again, err
}

// poll notes that a host asks for work.
func (t *txn) poll(agent snapshot.ID, r api.ClaimRequest) (string, error) {
	h, p, err := t.caller(agent, r.Session)
	if err != nil {
		return "", err
	}
	p.polls++
	p.seen = t.now
	p.withheld = t.withheld(h, r.FreeSlots-busyOffers(r.Offers))
	p.back = p.back[max(0, len(p.back)-p.withheld):]
	p.offers = r.Offers
	t.place, t.poke = true, true
	return h.Name, nil
}

// withheld counts the slots that a host does not offer although nothing that it
// knows of is in them. A claim that it was not told of yet takes one that it offers.
func (t *txn) withheld(h *state.Host, free int) int {
	known := 0
	for _, a := range t.liveOn(h.Name) {
		if b := t.w.beats[a.ID]; a.Stage != state.AttemptAssigned || (b != nil && !b.delivered.IsZero()) {
			known++
		}
	}
	return max(0, h.Slots-known-free)
}

// pollEnds notes that a poll was answered, or given up by the host.
func (t *txn) pollEnds(host string, answered bool) {
	p := t.w.fleet[host]
	p.polls--
	t.poke = true
	p.expect = time.Time{}
	if answered {
		p.expect = t.now.Add(pollGap)
	}
}

// deliver collects up to n claims of a host that it was not told of, or long ago.
// recent reports whether one was held back because it was told only just now; jobs has
// the job of each claim.
func (t *txn) deliver(host, base string, n int) (out []api.Claim, jobs []string, recent bool) {
	out = []api.Claim{}
	for _, a := range t.liveOn(host) {
		b := t.w.beats[a.ID]
		if len(out) >= n || a.Stage != state.AttemptAssigned || b == nil {
			continue
		}
		if t.now.Sub(b.delivered) < redeliver {
			recent = true
			continue
		}
		b.delivered = t.now
		out, jobs = append(out, t.claim(a, base)), append(jobs, a.Job)
	}
	return out, jobs, recent
}

// addPayloads gives claims the payloads of other systems' jobs, which the loop does not
// wait for. A job whose payload is gone ended just now.
func (s *Server) addPayloads(ctx context.Context, cs []api.Claim, jobs []string) ([]api.Claim, error) {
	out := []api.Claim{}
	for i, c := range cs {
		if c.External == nil {
			out = append(out, c)
			continue
		}
		b, err := s.payload(ctx, jobs[i])
		switch {
		case errors.Is(err, errSealed):
			if err := s.do(ctx, func(t *txn) error { return t.lostPayload(jobs[i]) }); err != nil {
				return nil, err
			}
		case errors.Is(err, state.ErrNotFound):
		case err != nil:
			return nil, err
		default:
			c.External.Payload = b
			out = append(out, c)
		}
	}
	return out, nil
}

// claim makes what a host is told of an attempt.
func (t *txn) claim(a *state.Attempt, base string) api.Claim {
	j := t.jobs.get(a.Job)
	p := t.pipelines.get(j.Pipeline)
	c := api.Claim{
		Attempt: a.ID, Number: a.Number, Epoch: a.Epoch,
		AcceptMS: t.s.o.AcceptTimeout.Milliseconds(), LeaseMS: t.s.o.HostLease.Milliseconds(),
		Pipeline: p.ID, PipelineNumber: p.Number, Project: p.Project, Job: j.Def.Spec,
		Token: t.s.attemptToken(a.ID, a.Epoch), Origin: j.Origin, Code: j.InputCode, Reason: j.InputReason,
		DomainKey: t.domainKey(p.Project, p.Zone),
	}
	if p.Source != nil && j.Def.Source {
		src := *p.Source
		if src.Dir != "" {
			src.URL, src.Dir = base+"/v1/git/"+string(a.ID), ""
		}
		c.Source = &src
	}
	for _, in := range j.Inputs {
		if x := t.snapshots.get(in.Snapshot); x != nil && x.Packed {
			in.Manifest = x.Layer.Manifest
		}
		c.Inputs = append(c.Inputs, in)
	}
	c.External = t.external(j)
	c.Lineage = t.lineage(c.Inputs)
	c.Layers = t.layers(c.Inputs)
	return c
}

// lineage lists every ancestor of ins, and ins themselves.
func (t *txn) lineage(ins []api.Input) []api.Node {
	var out []api.Node
	seen := map[snapshot.ID]bool{}
	var todo []snapshot.ID
	for _, in := range ins {
		todo = append(todo, in.Snapshot)
	}
	for len(todo) > 0 && len(out) < maxLineage {
		id := todo[0]
		todo = todo[1:]
		x := t.snapshots.get(id)
		if seen[id] || x == nil {
			continue
		}
		seen[id] = true
		out = append(out, api.Node{ID: id, Parents: x.Parents, Job: x.JobName})
		todo = append(todo, x.Parents...)
	}
	return out
}

// layers lists the durable layers that ins stand on, each base before what stands
// on it.
func (t *txn) layers(ins []api.Input) []api.LayerRef {
	var out []api.LayerRef
	seen := map[snapshot.ID]bool{}
	for _, in := range ins {
		c := chain(t.snapshots.get, in.Snapshot)
		for i := len(c) - 1; i >= 0; i-- {
			l := c[i]
			if !l.Durable || seen[l.ID] {
				continue
			}
			seen[l.ID] = true
			out = append(out, t.snapshots.get(l.ID).Layer)
		}
	}
	return out
}

func (t *txn) domainKey(project, zone string) []byte {
	for _, d := range t.domains {
		if d.Project == project && d.Zone == zone {
			return d.Key
		}
	}
	if d := t.w.domains[domainKey{project, zone}]; d != nil {
		return d.Key
	}
	return nil
}
