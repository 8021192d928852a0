package runnerconf

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// makeShared writes an entry for each slot into one file.
func (f *File) makeShared(found *Found, p Plan) (*Planned, error) {
	out := &Planned{}
	e, err := f.entry(found.index)
	if err != nil {
		return nil, err
	}
	g, err := e.Repeat(len(p.Tokens))
	if err != nil {
		return nil, err
	}
	for i := range p.Tokens {
		if g, err = g.makeSlot(found.index+i, i+1, p, found, out); err != nil {
			return nil, err
		}
	}
	// A request that is held takes one of the process's workers, so there must be one for
	// each slot, besides those of other entries.
	want := len(p.Tokens)
	if found.Others > 0 {
		want += f.othersConcurrent(found.index)
	}
	if want = max(want, f.concurrent()); want != f.concurrent() {
		if g, err = g.Set(want, "concurrent"); err != nil {
			return nil, err
		}
	}
	out.Main = g.Bytes()
	return out, nil
}

// othersConcurrent is how many jobs the other entries ran at once.
func (f *File) othersConcurrent(but int) int {
	all, _ := f.entries() //nolint:errcheck // they were listed before
	n := 0
	for _, e := range all {
		switch limit := e.Int("limit"); {
		case e.Index == but:
		case limit <= 0:
			return f.concurrent()
		default:
			n += limit
		}
	}
	return min(n, f.concurrent())
}

// makeApart takes the entry out of the file and writes one file for each slot.
func (f *File) makeApart(found *Found, p Plan) (*Planned, error) {
	out := &Planned{}
	for i := range p.Tokens {
		g, err := f.alone(found.index)
		if err != nil {
			return nil, err
		}
		if g, err = g.makeSlot(0, i+1, p, found, out); err != nil {
			return nil, err
		}
		e, err := g.entry(0)
		if err != nil {
			return nil, err
		}
		if g, err = e.Comment("Slot "+strconv.Itoa(i+1)+" of Roost: one runner process with one job at a time.",
			"Written by roost install gitlab, which writes it anew."); err != nil {
			return nil, err
		}
		out.Slots = append(out.Slots, g.Bytes())
	}
	e, err := f.entry(found.index)
	if err != nil {
		return nil, err
	}
	g, err := e.Remove(fmt.Sprintf("The runner %q is served by Roost: %s has one file for each of its %d slots.", printable(found.Name), p.Dir, len(p.Tokens)),
		"roost uninstall gitlab brings it back.")
	if err != nil {
		return nil, err
	}
	out.Main = g.Bytes()
	return out, nil
}

// printable is a name that can stand in a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// alone is the file with one entry, for a process that runs one job at a time beside
// others like it: it listens nowhere.
func (f *File) alone(index int) (*File, error) {
	all, err := f.entries()
	if err != nil {
		return nil, err
	}
	g := f
	for i := len(all) - 1; i >= 0; i-- {
		if i == index {
			continue
		}
		e, err := g.entry(i)
		if err != nil {
			return nil, err
		}
		if g, err = e.Remove(); err != nil {
			return nil, err
		}
	}
	for _, k := range []string{"listen_address", "session_server"} {
		if g, err = g.delete(k); err != nil {
			return nil, err
		}
	}
	return g.Set(1, "concurrent")
}

// makeCalled makes the entry one of the custom executor that calls roost.
func (f *File) makeCalled(found *Found, p Plan) (*File, error) {
	e, err := f.entry(found.index)
	if err != nil {
		return nil, err
	}
	g := f
	set := func(value any, path ...string) {
		if err != nil {
			return
		}
		if g, err = e.Set(value, path...); err == nil {
			e, err = g.entry(found.index)
		}
	}
	set(Custom, "executor")
	set(len(p.Tokens), "limit")
	for _, dir := range []string{"builds", "cache"} {
		if key := dir + "_dir"; p.Home != "" && e.Text(key) == "" {
			set(filepath.Join(p.Home, dir), key)
		}
	}
	if e.Get("feature_flags", "FF_ENABLE_JOB_CLEANUP") == true {
		set(false, "feature_flags", "FF_ENABLE_JOB_CLEANUP")
	}
	// Nobody edits the job on its way here, and git clean would empty the workspace. Jobs
	// without one are cleaned by roost gitlab-custom. A job's own setting wins.
	if err == nil {
		if g, err = e.Insert("GIT_CLEAN_FLAGS=none", "environment"); err == nil {
			e, err = g.entry(found.index)
		}
	}
	for _, stage := range []string{"config", "prepare", "run", "cleanup"} {
		set(p.Program, "custom", stage+"_exec")
		args := append([]string{"gitlab-custom", stage}, p.Args...)
		if stage == "run" && p.User != "" {
			args = append(args, "--user", p.User)
		}
		set(args, "custom", stage+"_args")
	}
	if err != nil {
		return nil, err
	}
	if n := max(len(p.Tokens), f.concurrent()); n != f.concurrent() {
		return g.Set(n, "concurrent")
	}
	return g, nil
}
