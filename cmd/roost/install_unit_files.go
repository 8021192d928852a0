package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/runnerconf"
	"github.com/roost-ci/roost/packaging"
)

// roostProgram is this program, as services call it.
func roostProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(self)
}

// unitFiles are the services, but for those that a package has put in place.
func (o *installOptions) unitFiles(p *installPlan) error {
	self, err := roostProgram()
	if err != nil {
		return err
	}
	if !o.systemd() {
		return nil
	}
	ours := func(name, text string) {
		p.agentUnits = append(p.agentUnits, name)
		for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil && self == "/usr/bin/roost" && o.etc == "/etc/roost" {
				return
			}
		}
		text = strings.ReplaceAll(text, "/usr/bin/roost ", self+" ")
		p.add(filepath.Join(o.units, name), strings.ReplaceAll(text, "/etc/roost/", o.etc+"/"), 0o644)
	}
	if p.wish.WithCoordinator {
		ours("roost-coordinator.service", packaging.CoordinatorUnit)
	}
	ours("roost-agent.service", packaging.AgentUnit)
	if p.layout != runnerconf.Apart {
		return nil
	}
	args, mode := "", os.FileMode(0o644)
	if p.keptSecret {
		mode = 0o600
	}
	if p.home != "" {
		args += " --working-directory " + p.home
	}
	if p.wish.User != "" {
		args += " --user " + p.wish.User
	}
	p.add(filepath.Join(o.units, "gitlab-runner-roost.target"), packaging.RunnersTarget, 0o644)
	p.add(filepath.Join(o.units, "gitlab-runner-roost@.service"), strings.NewReplacer(
		"@SLOTS@", filepath.Join(o.lib, "slots"), "@BUILDS@", o.buildsDir(p), "@RUNNER@", p.wish.Program,
		"@CONFIGS@", filepath.Join(filepath.Dir(p.wish.Config), "roost"), "@ARGS@", args, "@KEPT@\n", p.kept,
	).Replace(packaging.RunnerUnit), mode)
	return nil
}
