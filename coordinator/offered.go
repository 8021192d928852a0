package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/roost-ci/roost/affinity"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
)

// busyOffers counts the slots whose runners have a job already: they take no other.
func busyOffers(os []api.SlotOffer) int {
	n := 0
	for _, o := range os {
		if len(o.Job) > 0 {
			n++
		}
	}
	return n
}

// takeOffered keeps the jobs that a host's runners have already. Each is assigned to
// its slot; nobody asks where it would be better off, and its end is its runner's to
// tell. It gives those that are refused.
func (s *Server) takeOffered(ctx context.Context, host string, os []api.SlotOffer) ([]api.Refusal, error) {
	var refused []api.Refusal
	for _, o := range os {
		if len(o.Job) == 0 {
			continue
		}
		s.mu.RLock()
		p := s.world.fleet[host]
		pool, key := p.pool, p.poolKey
		s.mu.RUnlock()
		if pool == nil {
			return nil, invalid("slot %d: a host without a pool has no jobs of its own", o.Slot)
		}
		instance, err := gitlab.Instance(pool.URL)
		if err != nil {
			return nil, err
		}
		j, err := gitlab.Parse(instance, o.Job)
		if err != nil {
			return nil, invalid("slot %d: %v", o.Slot, err)
		}
		err = s.takeOne(ctx, gitlab.Pool{Name: key, URL: pool.URL, Runner: o.Runner}, j, host, o)
		switch {
		case errors.Is(err, gitlab.ErrNotConfirmed), errors.Is(err, gitlab.ErrNoWord):
			s.log.Warn("a job that a host brought gets no workspace", "host", host, "slot", o.Slot, "job", j.ID, "error", err)
			refused = append(refused, api.Refusal{Slot: o.Slot, Reason: err.Error(), Later: errors.Is(err, gitlab.ErrNoWord)})
		case err != nil:
			return nil, err
		}
	}
	return refused, nil
}

// errNotHere says that a job is not one that goes on here.
var errNotHere = errors.New("not here")

// takeOne keeps a job that a host brought, as far as GitLab says that it is what the host says:
// whoever has an agent's token, or the runner's place on a host, may say anything.
func (s *Server) takeOne(ctx context.Context, from gitlab.Pool, j *gitlab.Job, host string, o api.SlotOffer) error {
	take := func(j *gitlab.Job) func(*txn) error {
		return func(t *txn) error { return t.take(from, j, o.Job, host, o.Slot) }
	}
	if err := s.do(ctx, func(t *txn) error {
		// What is here already was confirmed, or is refused as another host's. It may end meanwhile, and
		// the next one of its number is not believed for its sake.
		if old := t.outsider(j.Instance, j.ID); old == nil || old.Status.Ended() {
			return errNotHere
		}
		return take(j)(t)
	}); !errors.Is(err, errNotHere) {
		return err
	}
	if !slices.Contains(s.gitlabURLs, from.URL) {
		return fmt.Errorf("%w: this coordinator does not ask %s: add it to coordinator.gitlab_urls in its configuration",
			gitlab.ErrNotConfirmed, from.URL)
	}
	sure, err := s.gitlab.Confirm(ctx, from.URL, j)
	if err != nil {
		return err
	}
	// A pipeline of that number in the zone that the payload names is one of which GitLab gave us
	// another job itself: then that is the zone.
	known := false
	seen := *sure
	seen.Zone = j.Zone
	if err := s.takeInto(ctx, &seen, func(t *txn) error {
		if known = t.hasPipeline(&seen); !known {
			return nil
		}
		return take(&seen)(t)
	}); err != nil || known {
		return err
	}
	return s.takeInto(ctx, sure, take(sure))
}

// placeHeld assigns the jobs whose runners have them already, and gives the others.
func (t *txn) placeHeld(queued []*state.Job) ([]*state.Job, error) {
	var err error
	return slices.DeleteFunc(queued, func(j *state.Job) bool {
		e := j.Def.External
		if e == nil || e.Host == "" {
			return false
		}
		if err == nil {
			err = t.assignHeld(j, e.Host)
		}
		return true
	}), err
}

// assignHeld assigns a job to the host that has it, with what that host can have.
func (t *txn) assignHeld(j *state.Job, host string) error {
	h := t.hosts.get(host)
	if h == nil || h.State != api.HostReady {
		t.failQueued(j, api.FailHostLost, "its host is gone")
		return nil
	}
	aj, g, ok := t.fleetJob(j)
	if !ok {
		return nil
	}
	hosts := t.fleetHosts()
	i := slices.IndexFunc(hosts, func(h affinity.Host) bool { return h.Name == host })
	if i < 0 {
		return nil
	}
	one := hosts[i]
	one.Free, one.Slots, one.Off = 1, max(1, one.Slots), ""
	d := affinity.Decide(affinity.Fleet{Hosts: []affinity.Host{one}, Jobs: []affinity.Job{aj}})
	a := affinity.Assignment{Job: j.ID, Host: host, Code: affinity.OnlyHost}
	switch {
	case len(d.Assign) == 1:
		a = d.Assign[0]
	case j.Def.Spec.Workspace.Mode == pipeline.ModeRequired:
		t.wait(d.Wait[0])
		return nil
	default:
		g = given{origin: api.OriginNone, code: api.WorkspaceLost, reason: d.Wait[0].Reason}
	}
	a.Reason = fmt.Sprintf("its runner had it already; %s", a.Reason)
	return t.assign(a, g)
}
