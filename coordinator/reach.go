package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// reachable checks that every input can be had somewhere, now or soon. An input
// whose only holders are lost is waited for; then it is given up: a job that must
// have it fails, any other one starts fresh.
func (t *txn) reachable(j *state.Job, g given) (given, bool) {
	for _, in := range g.inputs {
		where, gone := t.whereabouts(in.Snapshot)
		if where == "" {
			continue
		}
		w := t.waiting(j)
		if !gone {
			if w.lost.IsZero() {
				w.lost = t.now
			}
			if left := t.s.o.HolderGrace - t.now.Sub(w.lost); left > 0 {
				t.note(j, api.WaitLost, fmt.Sprintf("the files of %s are not uploaded and %s; given up in %.0f s", in.Job, where, left.Seconds()), nil)
				return g, false
			}
		}
		why := fmt.Sprintf("the files of %s (snapshot %s) are lost: they were not uploaded and %s", in.Job, in.Snapshot, where)
		if j.Def.Spec.Workspace.Mode == "required" {
			t.failInput(j, why)
			return g, false
		}
		return given{origin: api.OriginNone, code: api.WorkspaceLost, reason: why}, true
	}
	if w := t.w.waits[j.ID]; w != nil {
		w.lost = time.Time{}
	}
	return g, true
}

// whereabouts says where the only copies of a snapshot are when none of them can
// be reached; "" if one can. gone says that nobody may come back with one.
func (t *txn) whereabouts(id snapshot.ID) (where string, gone bool) {
	if allDurable(chain(t.snapshots.get, id)) {
		return "", false
	}
	var away []string
	for name, p := range t.w.fleet {
		h := t.hosts.get(name)
		_, holds := p.holds[id]
		if !p.known {
			// What it holds is not known; that it made the snapshot is.
			x := t.snapshots.get(id)
			holds = holds || (x != nil && x.Host == name)
		}
		switch {
		case !holds || h == nil:
		case h.State == api.HostReady && p.known:
			return "", false
		default:
			away = append(away, name)
		}
	}
	if len(away) == 0 {
		return "no host has them", true
	}
	slices.Sort(away)
	return strings.Join(away, ", ") + " can't be reached", false
}

// failInput ends a queued job that must have what can't be had.
func (t *txn) failInput(j *state.Job, why string) { t.failQueued(j, api.FailInput, why) }

// failQueued ends a job that waits for a host in vain.
func (t *txn) failQueued(j *state.Job, c api.Code, why string) {
	j = t.editJob(j.ID)
	j.Status, j.Code, j.Reason, j.EndMS = api.StatusFailed, c, why, t.ms()
	t.owe(j.ID, why, false)
	t.look[j.Pipeline] = true
	t.event(j.Pipeline, j, why)
}
