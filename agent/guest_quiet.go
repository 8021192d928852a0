package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/roost-ci/roost/agent/leftovers"
	"github.com/roost-ci/roost/snapshot/view"
)

// quiet returns what sees to it that nothing of the job uses its view any more, and, if
// it is to be kept, that no token of the job's runner is in it. It is called before each
// try to seal or discard the view, with the error of the last one.
//
// A driver that mounts knows whether somebody is at a view: only then they are looked
// for, as the look goes through all processes.
func (g *guest) quiet(log sayer, keep bool) func(busy error) error {
	a, at := g.a, g.note.Place.View
	return func(busy error) error {
		at := at
		if _, err := os.Lstat(at); errors.Is(err, fs.ErrNotExist) {
			at = "" // a process before this one was about to seal it
		}
		var all []leftovers.Process
		var errs []error
		if busy == nil && a.o.Cgroups != nil {
			for _, c := range a.o.Cgroups(g.note.Slot) {
				ended, err := leftovers.EndCgroup(a.out, c)
				all, errs = append(all, ended...), append(errs, err)
			}
		}
		if at != "" && (busy != nil || !a.tellsBusy()) {
			ended, err := leftovers.End(a.out, at, a.uid)
			all, errs = append(all, ended...), append(errs, err)
		}
		if len(all) > 0 {
			log.say("ended %d process(es) that the job left running: %s", len(all), describeEnded(all))
		}
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("what the job left running: %w", err)
		}
		if at == "" || !keep {
			return nil
		}
		if err := scrubGit(at); err != nil {
			return fmt.Errorf("take the job's token out of its git configuration: %w", err)
		}
		return nil
	}
}

// tellsBusy reports whether the store's driver refuses to seal what somebody uses.
func (a *Agent) tellsBusy() bool {
	switch a.o.Store.Driver().Name() {
	case view.NameCopy, view.NameReflink:
		return false
	}
	return true
}

// describeEnded names processes, the first of many.
func describeEnded(all []leftovers.Process) string {
	const most = 5
	var out []string
	for i, p := range all {
		if i == most {
			out = append(out, "…")
			break
		}
		out = append(out, fmt.Sprintf("%s (%d, %s)", p.Name, p.PID, p.Why))
	}
	return strings.Join(out, ", ")
}
