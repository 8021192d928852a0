package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/agent/leftovers"
)

// cgroupRoot is where control groups of version 2 are, beside those of version 1 also
// below it.
const cgroupRoot = "/sys/fs/cgroup"

// runnerCgroups finds the control group of a slot's runner, as the unit that roost
// install writes makes it: what a job of the shell executor leaves running is in it,
// whether it has anything of its workspace open or not.
func runnerCgroups(root string) func(slot int) []leftovers.Cgroup {
	return func(slot int) []leftovers.Cgroup {
		unit := fmt.Sprintf("gitlab-runner-roost@%d.service", slot)
		var out []leftovers.Cgroup
		for _, top := range []string{root, filepath.Join(root, "unified")} {
			// systemd writes the hyphens of a template's slice as \x2d.
			dirs, err := filepath.Glob(filepath.Join(top, "system.slice", "system-gitlab*runner*roost.slice", unit))
			if err != nil { // the pattern is ours
				continue
			}
			for _, dir := range append(dirs, filepath.Join(top, "system.slice", unit)) {
				if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
					out = append(out, leftovers.Cgroup{Dir: dir, Runner: true})
				}
			}
		}
		return out
	}
}
