package coordinator

import (
	"context"
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
// tell.
func (s *Server) takeOffered(ctx context.Context, host string, os []api.SlotOffer) error {
	for _, o := range os {
		if len(o.Job) == 0 {
			continue
		}
		s.mu.RLock()
		p := s.world.fleet[host]
		pool, key := p.pool, p.poolKey
		s.mu.RUnlock()
		if pool == nil {
			return invalid("slot %d: a host without a pool has no jobs of its own", o.Slot)
		}
		instance, err := gitlab.Instance(pool.URL)
		if err != nil {
			return err
		}
		j, err := gitlab.Parse(instance, o.Job)
		if err != nil {
			return invalid("slot %d: %v", o.Slot, err)
		}
		from := gitlab.Pool{Name: key, URL: pool.URL, Runner: o.Runner}
		if err := s.takeInto(ctx, j, func(t *txn) error {
			return t.take(from, j, o.Job, host, o.Slot)
		}); err != nil {
			return err
		}
	}
	return nil
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
