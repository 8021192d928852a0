package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// forgetEvery is how often snapshots are looked for that nothing refers to. One is
// forgotten when it was found so twice and did not change in between.
const forgetEvery = 5 * time.Minute

// forget drops a pipeline that has ended from the picture. Whoever asks for it
// again is answered from the state store.
func (w *world) forget(id string) {
	p := w.pipelines[id]
	for _, jid := range p.Jobs {
		j := w.jobs[jid]
		if e := j.Def.External; e != nil {
			if key := outsideKey(e.Instance, e.ID); w.byOutside[key] == jid {
				delete(w.byOutside, key)
			}
			delete(w.kept, jid)
		}
		delete(w.jobs, jid)
		delete(w.waits, jid)
		delete(w.queued, jid)
		for aid := range w.tried[jid] {
			delete(w.attempts, aid)
		}
		delete(w.tried, jid)
		// What it made is looked at again from here on.
		delete(w.unused, j.Output)
	}
	if w.byKey[p.Key] == id {
		delete(w.byKey, p.Key)
	}
	delete(w.byName, id)
	delete(w.pipelines, id)
}

// forgetSnapshots drops snapshots that no live job, no seed and no other snapshot
// in the picture refers to.
func (w *world) forgetSnapshots() {
	used := map[snapshot.ID]bool{}
	var todo []snapshot.ID
	add := func(ids ...snapshot.ID) {
		for _, id := range ids {
			if id != "" && !used[id] {
				used[id] = true
				todo = append(todo, id)
			}
		}
	}
	for _, j := range w.jobs {
		add(j.Output)
		for _, in := range j.Inputs {
			add(in.Snapshot)
		}
	}
	for _, by := range w.seeds {
		for _, seeds := range by {
			for _, s := range seeds {
				add(s.Snapshot)
			}
		}
	}
	for len(todo) > 0 {
		x := w.snapshots[todo[len(todo)-1]]
		todo = todo[:len(todo)-1]
		if x != nil {
			add(x.Parents...)
			add(x.Layer.Base)
		}
	}
	for id, x := range w.snapshots {
		switch was, twice := w.unused[id]; {
		case used[id]:
			delete(w.unused, id)
		case twice && was == x.Version:
			delete(w.snapshots, id)
			delete(w.unused, id)
		default:
			w.unused[id] = x.Version
		}
	}
}

// adopt reads snapshots that are not in the picture, so that an operation on them
// finds what is stored. It gives what the operation has to call first.
func (s *Server) adopt(ctx context.Context, ids ...snapshot.ID) (func(*txn), error) {
	var missing []snapshot.ID
	s.mu.RLock()
	for _, id := range ids {
		if id != "" && s.world.snapshots[id] == nil {
			missing = append(missing, id)
		}
	}
	s.mu.RUnlock()
	xs, err := s.state.Snapshots(ctx, missing)
	if err != nil {
		return nil, err
	}
	return func(t *txn) {
		for _, x := range xs {
			// What came in meanwhile is newer.
			if t.snapshots.get(x.ID) == nil {
				t.w.snapshots[x.ID] = x
			}
		}
	}, nil
}

// told finds those of refs that may have been ended by their own host, which may
// ask for the answer again. It is looked up before the operation, since pipelines
// that are over are not in the picture; one that is live now may end meanwhile.
func (s *Server) told(ctx context.Context, refs []api.AttemptRef) (map[snapshot.ID]bool, error) {
	out := map[snapshot.ID]bool{}
	for _, r := range refs {
		s.mu.RLock()
		a := s.world.attempts[r.Attempt]
		s.mu.RUnlock()
		if a != nil {
			out[r.Attempt] = a.Epoch == r.Epoch
			continue
		}
		a, err := s.state.Attempt(ctx, r.Attempt)
		if err != nil && !errors.Is(err, state.ErrNotFound) {
			return nil, err
		}
		out[r.Attempt] = err == nil && a.Finished && a.Epoch == r.Epoch
	}
	return out, nil
}

// over reports whether an attempt that a host lists is not its any more. One that
// it ended itself is not over for it: it may not have got the answer.
func (t *txn) over(host string, r api.AttemptRef, told map[snapshot.ID]bool) bool {
	a := t.attempts.get(r.Attempt)
	switch {
	case a == nil:
		return !told[r.Attempt]
	case a.Epoch != r.Epoch || a.Host != host:
		return true
	case a.Stage == state.AttemptEnded:
		return !a.Finished
	}
	return false
}
