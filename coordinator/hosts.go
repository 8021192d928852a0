package coordinator

import (
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// pollGap is how long a host that just had a poll answered, or a job ended, counts
// as one that asks for work: it is about to ask again.
const pollGap = 2 * time.Second

// runnerBack is how long after a job of another system its runner is expected to ask
// again. It has to end the job there first, which may be put off for a while, and
// looks for the next one every three seconds.
const runnerBack = 15 * time.Second

// register takes a host in, or back.
func (t *txn) register(r api.Register, told map[snapshot.ID]bool) (*api.Registered, error) {
	h := t.hosts.get(r.Name)
	if h != nil && h.StoreID != r.StoreID && h.State == api.HostReady {
		return nil, t.nameTaken(h)
	}
	if err := t.moved(r); err != nil {
		return nil, err
	}
	t.present(r)
	restarted := h == nil || h.Session != r.Session || h.StoreID != r.StoreID
	if h != nil && h.StoreID != r.StoreID {
		// Another machine under an old name: what ran there will not come back.
		t.dropAttempts(r.Name, nil, api.FailHostLost, "its host was replaced")
	}
	if err := t.writeHost(h, r); err != nil {
		return nil, err
	}
	if restarted {
		t.dropAttempts(r.Name, r.Attempts, api.FailAgentDied, "the agent came back without the job")
	}
	out := &api.Registered{
		Agent: t.hosts.get(r.Name).Agent, LeaseMS: t.s.o.HostLease.Milliseconds(), HeartbeatMS: t.s.o.Heartbeat.Milliseconds(),
	}
	for _, ref := range r.Attempts {
		if t.over(r.Name, ref, told) {
			out.Ended = append(out.Ended, ref.Attempt)
		} else if a := t.attempts.get(ref.Attempt); a != nil {
			t.seen(a)
		}
	}
	t.place = true
	return out, nil
}

// nameTaken says who has the name, and what to do.
func (t *txn) nameTaken(h *state.Host) error {
	p := t.w.fleet[h.Name]
	seen := "has not been heard of since the coordinator started"
	if !p.seen.IsZero() {
		seen = fmt.Sprintf("was last heard of %.0f s ago", t.now.Sub(p.seen).Seconds())
	}
	return &api.Error{HTTP: 409, Code: api.CodeNameTaken, Text: fmt.Sprintf(
		"the name %q is held since %s by another host (store %s), which %s. Give this host another name, or stop the other agent: "+
			"its name is free when it says good-bye, or %.0f s after it was last heard of",
		h.Name, time.UnixMilli(h.SinceMS).UTC().Format(time.RFC3339), h.StoreID, seen, t.s.o.HostLease.Seconds())}
}

// moved handles a store that comes back under another name: its old name is free
// at once, and what runs there runs under the new one.
func (t *txn) moved(r api.Register) error {
	for name := range t.w.hosts {
		old := t.hosts.get(name)
		if name == r.Name || old.StoreID != r.StoreID || old.State == api.HostLeft {
			continue
		}
		for _, a := range t.liveOn(name) {
			if slices.Contains(r.Attempts, api.AttemptRef{Attempt: a.ID, Epoch: a.Epoch}) {
				a = t.editAttempt(a.ID)
				a.Host = r.Name
				t.editJob(a.Job).Host = r.Name
			}
		}
		t.dropAttempts(name, nil, api.FailAgentDied, "the agent came back without the job")
		t.leaveHost(name)
	}
	return nil
}

// writeHost records what a host said of itself.
func (t *txn) writeHost(h *state.Host, r api.Register) error {
	if h == nil {
		h = &state.Host{Name: r.Name, Version: 1}
		t.keep(t.hosts.set(r.Name, h))
	} else {
		h = t.editHost(r.Name)
	}
	if h.Agent == "" || h.StoreID != r.StoreID {
		id, err := snapshot.NewID(t.s.o.Rand)
		if err != nil {
			return err
		}
		h.Agent = id
	}
	if h.State != api.HostReady || h.Session != r.Session {
		h.SinceMS = t.ms()
	}
	h.StoreID, h.Session, h.BootID, h.State, h.LostMS = r.StoreID, r.Session, r.BootID, api.HostReady, 0
	h.Slots, h.Tags, h.Driver, h.OS, h.Arch = r.Slots, r.Tags, r.Driver, r.OS, r.Arch
	h.Fingerprint, h.Software = r.Fingerprint, r.Version
	h.Pool = t.w.fleet[r.Name].poolKey
	return nil
}

// present notes that a host is there and what it holds. That is true whether or
// not the batch is committed.
func (t *txn) present(r api.Register) {
	p := t.w.fleet[r.Name]
	if p == nil {
		p = &presence{}
		t.w.fleet[r.Name] = p
	}
	p.known, p.expires, p.seen = true, t.now.Add(t.s.o.HostLease), t.now
	p.expect, p.withheld = t.now.Add(pollGap), 0
	p.holds, p.parts, p.with = map[snapshot.ID]int64{}, nil, nil
	p.hold(r.Holdings)
	p.offers = nil
	p.setPool(r.Pool)
	t.poke = true
}

// caller finds the host of an agent. An agent that is not known, or whose session
// is not the newest, has to register.
func (t *txn) caller(agent, session snapshot.ID) (*state.Host, *presence, error) {
	h := t.hosts.get(t.w.agents[agent])
	if h == nil || h.State != api.HostReady {
		return nil, nil, &api.Error{HTTP: 404, Code: api.CodeNotFound, Text: "this host is not registered; register it again"}
	}
	p := t.w.fleet[h.Name]
	if h.Session != session || p == nil || !p.known {
		return nil, nil, &api.Error{HTTP: 404, Code: api.CodeNotFound, Text: "this session of the host is over; register it again"}
	}
	return h, p, nil
}

// heartbeat renews a host's lease and tells what changed for it.
func (t *txn) heartbeat(agent snapshot.ID, b api.Heartbeat, told map[snapshot.ID]bool) (*api.HeartbeatReply, error) {
	h, p, err := t.caller(agent, b.Session)
	if err != nil {
		return nil, err
	}
	p.expires, p.seen = t.now.Add(t.s.o.HostLease), t.now
	p.hold(b.Holdings)
	p.diskFree, p.diskTotal, p.queue, p.encode, p.upload = b.DiskFree, b.DiskTotal, b.Queue, b.EncodeRate, b.UploadRate
	p.evicted, p.evictedBytes = b.Evicted, b.EvictedBytes
	live := t.liveOn(h.Name)
	if p.polls == 0 {
		// While it asks for work, what it asks for counts: it is the newer word.
		p.withheld = t.withheld(h, b.FreeSlots)
	}
	out := &api.HeartbeatReply{}
	listed := t.listed(h.Name, b.Attempts, told, out)
	for _, a := range live {
		// One that was just accepted, or whose end is on its way, may be missing
		// from one heartbeat, but not for the time of a lease.
		last := t.w.beats[a.ID]
		if a.Stage != state.AttemptAssigned && !listed[a.ID] && last != nil && t.now.Sub(last.seen) > t.s.o.HostLease {
			t.infra(a, api.FailAgentDied, "its host does not know it any more", false)
		}
	}
	for id := range t.w.urgent {
		if _, ok := p.holds[id]; ok {
			out.Urgent = append(out.Urgent, id)
		}
	}
	slices.Sort(out.Urgent)
	if len(b.Holdings) > 0 {
		t.place = true
	}
	return out, nil
}

// listed notes that a host has these attempts, and tells it in out which of them it has to
// stop. It returns those that are its own and have not ended.
func (t *txn) listed(host string, refs []api.AttemptRef, told map[snapshot.ID]bool, out *api.HeartbeatReply) map[snapshot.ID]bool {
	listed := map[snapshot.ID]bool{}
	for _, ref := range refs {
		if t.over(host, ref, told) {
			out.Fenced = append(out.Fenced, ref.Attempt)
			continue
		}
		a := t.attempts.get(ref.Attempt)
		if a == nil || a.Stage == state.AttemptEnded {
			continue
		}
		listed[a.ID] = true
		t.seen(a)
		if t.jobs.get(a.Job).Cancel {
			out.Cancel = append(out.Cancel, a.ID)
		}
	}
	return listed
}

// leave ends a host's session by its own wish.
func (t *txn) leave(agent, session snapshot.ID) error {
	h, _, err := t.caller(agent, session)
	if err != nil {
		return err
	}
	t.dropAttempts(h.Name, nil, api.FailHostLost, "its host left")
	t.leaveHost(h.Name)
	return nil
}
