package runnerconf

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Layout is how slots are laid over the runner's processes.
type Layout string

// The layouts.
const (
	// Shared: one process with an entry for each slot. Each slot has a volume of its own
	// (docker), so that jobs see their workspace at one path.
	Shared Layout = "shared"
	// Apart: a process for each slot, with a file of its own, in a mount namespace of
	// its own where BuildsDir is the slot's directory.
	Apart Layout = "apart"
	// PerSlot: one process; the workspace of each slot is at another path.
	PerSlot Layout = "per-slot"
	// Called: the runner talks to GitLab itself and calls roost for the workspace.
	Called Layout = "called"
)

// Plan says what an entry becomes.
type Plan struct {
	Layout Layout
	// Address is the agent's, as the runner and its containers see it: http://IP:port.
	Address string
	// Tokens are the slots' own. Their number is that of the slots.
	Tokens []string
	// BuildsDir is where jobs see the slot's directory. SlotsDir has these directories.
	BuildsDir, SlotsDir string
	// Program is roost, for Called; User is whom it runs scripts as, "" for the runner's own.
	Program, User string
	Args          []string // for each of its calls
	// Home is where builds and caches of jobs without a workspace go, if the entry does not say.
	Home string
	// Dir is where the files of Apart go, for the comment that stands for the entry.
	Dir string
}

// Planned are the texts that come out.
type Planned struct {
	Main []byte
	// Slots are the files of Apart, the first for slot 1.
	Slots [][]byte
	Notes []string
}

// zeroTime is how the runner writes that a token never ends.
const zeroTime = "0001-01-01T00:00:00Z"

// Make applies a plan to the entry that was found.
func (f *File) Make(found *Found, p Plan) (*Planned, error) {
	switch p.Layout {
	case Apart:
		return f.makeApart(found, p)
	case Called:
		g, err := f.makeCalled(found, p)
		if err != nil {
			return nil, err
		}
		return &Planned{Main: g.Bytes()}, nil
	case Shared, PerSlot:
		return f.makeShared(found, p)
	}
	return nil, fmt.Errorf("layout %q is unknown", p.Layout)
}

func (f *File) entry(i int) (*entry, error) {
	all, err := f.entries()
	if err != nil {
		return nil, err
	}
	return all[i], nil
}

// makeSlot makes entry i the runner of a slot.
func (f *File) makeSlot(i, slot int, p Plan, found *Found, out *Planned) (*File, error) {
	host := filepath.Join(p.SlotsDir, strconv.Itoa(slot))
	builds := p.BuildsDir
	if p.Layout == PerSlot {
		builds = host
	}
	e, err := f.entry(i)
	if err != nil {
		return nil, err
	}
	for _, s := range e.slotSettings(slot, builds, p, found) {
		g, err := e.Set(s.value, s.path...)
		if err != nil {
			return nil, err
		}
		if e, err = g.entry(i); err != nil {
			return nil, err
		}
	}
	g, err := e.neverExpires()
	if err != nil {
		return nil, err
	}
	if found.Executor != Docker || p.Layout != Shared {
		return g, nil
	}
	if e, err = g.entry(i); err != nil {
		return nil, err
	}
	g, old, err := e.mountAt(builds, host)
	if old != "" && slot == 1 {
		out.Notes = append(out.Notes, fmt.Sprintf("the volume %s gives way to the slot's own", old))
	}
	return g, err
}

// setting is what a key is to be set to.
type setting struct {
	value any
	path  []string
}

// slotSettings are those that make an entry a slot's.
func (e *entry) slotSettings(slot int, builds string, p Plan, found *Found) []setting {
	sets := []setting{
		{fmt.Sprintf("%s/slot%d", p.Address, slot), []string{"url"}},
		{p.Tokens[slot-1], []string{"token"}},
		{1, []string{"limit"}},
		{builds, []string{"builds_dir"}},
		{true, []string{"custom_build_dir", "enabled"}},
	}
	if found.Name != "" {
		sets = append(sets, setting{fmt.Sprintf("%s, slot %d", found.Name, slot), []string{"name"}})
	}
	if e.Get("feature_flags", "FF_ENABLE_JOB_CLEANUP") == true {
		sets = append(sets, setting{false, []string{"feature_flags", "FF_ENABLE_JOB_CLEANUP"}})
	}
	return sets
}

// neverExpires keeps the runner from renewing its local token.
func (e *entry) neverExpires() (*File, error) {
	sc := e.scope()
	path := slices.Concat(sc.prefix, []string{"token_expires_at"})
	for i := sc.first; i <= sc.last; i++ {
		t := &e.f.tables[i]
		for _, k := range t.keys {
			if !slices.Equal(slices.Concat(t.path, k.path), path) {
				continue
			}
			g, err := e.f.splice(k.value, zeroTime)
			if err != nil {
				return nil, err
			}
			again, err := g.entry(e.Index)
			if err != nil {
				return nil, err
			}
			want := copyDoc(e.f.doc).(map[string]any)
			put(sc.doc(want), []string{"token_expires_at"}, again.Get("token_expires_at"))
			return g.expect(want, "set token_expires_at")
		}
	}
	return e.f, nil
}

// mountAt gives the containers a volume at a path, instead of what was there.
func (e *entry) mountAt(at, host string) (f *File, old string, err error) {
	for i, v := range e.List("docker", "volumes") {
		parts := strings.Split(v, ":")
		target := parts[0]
		if len(parts) > 1 {
			target = parts[1]
		}
		if filepath.Clean(target) == at {
			f, err = e.Replace(i, host+":"+at, "docker", "volumes")
			return f, v, err
		}
	}
	f, err = e.Insert(host+":"+at, "docker", "volumes")
	return f, "", err
}
