package agent

// Tuning is what may change while an agent runs.
type Tuning struct {
	Room  Room // its Disk and Every are the old ones
	Scrub Scrub
	// UploadRate bounds uploads, in bytes per second. 0: no limit.
	UploadRate int64
}

// Tune changes the agent's ways from now on. Of Scrub it hears when it next looks
// whether something is due. It may be called at any time.
func (a *Agent) Tune(t Tuning) {
	a.mu.Lock()
	t.Room.Disk, t.Room.Every = a.o.Room.Disk, a.o.Room.Every
	a.o.Room, a.o.Scrub = t.Room.withDefaults(), t.Scrub.withDefaults()
	a.mu.Unlock()
	a.up.Limit(t.UploadRate)
	a.noSpace()
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
