package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// dropAttempts gives up the live attempts of a host but those in keep.
func (t *txn) dropAttempts(host string, keep []api.AttemptRef, c api.Code, why string) {
	for _, a := range t.liveOn(host) {
		switch {
		case slices.Contains(keep, api.AttemptRef{Attempt: a.ID, Epoch: a.Epoch}):
		case a.Stage == state.AttemptAssigned:
			// It never got there, so it says nothing about the host.
			t.endAttempt(a.ID, api.StatusFailed, c, why)
			t.again(a.Job, "taken back: "+why, func(*state.Job) {})
		default:
			t.infra(a, c, why, false)
		}
	}
}

func (t *txn) leaveHost(name string) {
	t.editHost(name).State = api.HostLeft
	t.w.fleet[name].known = false
	t.place = true
}

// expireHosts loses the hosts whose leases have ended, and what runs on them.
func (t *txn) expireHosts() {
	for name, p := range t.w.fleet {
		h := t.hosts.get(name)
		if h == nil || h.State != api.HostReady || t.now.Before(p.expires) {
			continue
		}
		t.s.log.Warn("host lost", "host", name, "seen", p.seen)
		h = t.editHost(name)
		h.State, h.LostMS = api.HostLost, t.ms()
		t.dropAttempts(name, nil, api.FailHostLost, fmt.Sprintf("nothing was heard of it for %.0f s", t.s.o.HostLease.Seconds()))
	}
	for id, until := range t.w.urgent {
		if !t.now.Before(until) {
			delete(t.w.urgent, id)
		}
	}
	for k, v := range t.w.keys {
		if t.now.Sub(v.at) > keyMemory {
			delete(t.w.keys, k)
		}
	}
}

// expireClaims takes back what nobody accepted in time.
func (t *txn) expireClaims() {
	for name, p := range t.w.fleet {
		for _, a := range t.liveOn(name) {
			b := t.w.beats[a.ID]
			if a.Stage != state.AttemptAssigned || b == nil || t.now.Sub(b.assigned) < t.s.o.AcceptTimeout {
				continue
			}
			t.infra(a, api.FailHostLost, fmt.Sprintf("it was not accepted within %.0f s", t.s.o.AcceptTimeout.Seconds()), false)
			// It gets nothing more before it asks again.
			p.expect = time.Time{}
		}
	}
}

// extend moves every deadline by the time in which the coordinator did not run.
func (t *txn) extend(gap time.Duration) {
	for _, p := range t.w.fleet {
		p.expires = p.expires.Add(gap)
	}
	for _, b := range t.w.beats {
		b.assigned, b.seen = b.assigned.Add(gap), b.seen.Add(gap)
	}
	for _, w := range t.w.waits {
		if !w.lost.IsZero() {
			w.lost = w.lost.Add(gap)
		}
	}
}
