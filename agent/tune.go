package agent

import (
	"reflect"

	"github.com/roost-ci/roost/coordinator/api"
)

// Tuning is what may change while an agent runs.
type Tuning struct {
	Room  Room // its Disk and Every are the old ones
	Scrub Scrub
	// UploadRate bounds uploads, in bytes per second. 0: no limit.
	UploadRate int64
	// Pool, if set, has the mode, the durability, the budget and the token for pipelines that
	// hold for the jobs of a plugin's runners. The rest of it stays.
	Pool *api.Pool
}

// Tune changes the agent's ways from now on. Of Scrub it hears when it next looks
// whether something is due. It may be called at any time.
func (a *Agent) Tune(t Tuning) {
	a.mu.Lock()
	t.Room.Disk, t.Room.Every = a.o.Room.Disk, a.o.Room.Every
	a.o.Room, a.o.Scrub = t.Room.withDefaults(), t.Scrub.withDefaults()
	if t.Pool != nil && a.o.Pool != nil {
		p := *a.o.Pool
		p.Mode, p.Durability, p.FetchBudgetMS, p.APIToken = t.Pool.Mode, t.Pool.Durability, t.Pool.FetchBudgetMS, t.Pool.APIToken
		if !reflect.DeepEqual(p, *a.o.Pool) {
			a.o.Pool, a.anew = &p, true
		}
	}
	a.mu.Unlock()
	a.up.Limit(t.UploadRate)
	a.noSpace()
	a.beatNow()
}

func (a *Agent) pool() *api.Pool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.o.Pool
}

func (a *Agent) room() Room {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.o.Room
}

func (a *Agent) scrubbing() Scrub {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.o.Scrub
}
