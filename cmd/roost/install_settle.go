package main

import (
	"errors"
	"fmt"
	"net"
	osexec "os/exec"
	osuser "os/user"
	"path/filepath"

	"github.com/roost-ci/roost/internal/runnerconf"
)

// settle decides what flags left open.
func (o *installOptions) settle(p *installPlan) error {
	w := &p.wish
	if w.Slots == 0 {
		w.Slots = p.found.Slots
	}
	if w.Slots < 1 || w.Slots > 256 {
		return usageError(fmt.Errorf("%d slots: want 1 to 256", w.Slots), "")
	}
	if w.Pool == "" {
		w.Pool = "default"
	}
	if w.Port == 0 {
		w.Port = defaultPort
	}
	if err := o.settleLayout(p); err != nil {
		return err
	}
	if p.layout == runnerconf.Shared && !p.found.HostNetwork && w.Address == "" {
		ip, err := dockerAddress()
		if err != nil {
			return usageError(err, "say this host's address as containers see it with --docker-address, such as 172.17.0.1")
		}
		w.Address = ip
	}
	if w.Address != "" && net.ParseIP(w.Address) == nil {
		return usageError(fmt.Errorf("--docker-address %q is no IP address", w.Address), "")
	}
	return o.settleRunner(p)
}

// settleLayout decides how the runner's jobs get their workspaces.
func (o *installOptions) settleLayout(p *installPlan) error {
	w, executor := &p.wish, p.found.Executor
	switch {
	case w.Executor != "" && w.Executor != runnerconf.Custom:
		return usageError(fmt.Errorf("--executor %s: the runner keeps the executor that it has; only custom can be asked for", w.Executor), "")
	case w.Executor == runnerconf.Custom:
		if inContainers := executor != runnerconf.Shell && executor != runnerconf.Custom; inContainers && w.User == "" {
			return usageError(fmt.Errorf("the jobs of %q run by the executor %s, and would run on this host itself by the custom one", p.found.Name, executor),
				"say as whom, with --user; or leave out --executor")
		}
		p.layout = runnerconf.Called
	case executor == runnerconf.Custom:
		return usageError(fmt.Errorf("the runner %q has a driver of its own (executor custom)", p.found.Name),
			"--executor custom puts roost in its place: jobs then run on this host, with bash")
	case executor == runnerconf.Docker:
		p.layout = runnerconf.Shared
	case w.PerSlotPaths || !o.systemd():
		p.layout = runnerconf.PerSlot
	default:
		p.layout = runnerconf.Apart
	}
	if p.layout == runnerconf.PerSlot && !w.PerSlotPaths {
		p.notes = append(p.notes, "this host has no systemd: one runner process serves all slots, and a job's path depends on its slot. "+
			"What a build tool remembers by absolute path does not help in another slot")
	}
	return nil
}

// settleRunner finds out how the runner is started here.
func (o *installOptions) settleRunner(p *installPlan) error {
	w, s := &p.wish, runnerService(o.units)
	defer func() { p.home, p.kept, p.keptSecret = homeOf(s, w.User), s.kept, s.secret }()
	if w.Program == "" {
		w.Program = s.program
	}
	if w.Program == "" {
		w.Program = "/usr/bin/gitlab-runner"
		if path, err := osexec.LookPath("gitlab-runner"); err == nil {
			w.Program = path
		}
	}
	if p.layout == runnerconf.Shared || w.User != "" {
		return nil
	}
	if w.User = s.user; w.User == "" && !s.known {
		if _, err := osuser.Lookup("gitlab-runner"); err == nil {
			w.User = "gitlab-runner"
		}
	}
	return nil
}

// homeOf is where the runner worked: as its service says, else its user's home.
func homeOf(s runnerUnit, user string) string {
	if s.workDir != "" {
		return s.workDir
	}
	if u, err := osuser.Lookup(user); err == nil {
		return u.HomeDir
	}
	return ""
}

// dockerAddress is the address of docker's bridge.
func dockerAddress() (string, error) {
	i, err := net.InterfaceByName("docker0")
	if err != nil {
		return "", errors.New("containers can't reach this host's loopback, and there is no docker0 whose address they could use")
	}
	addrs, err := i.Addrs()
	if err != nil {
		return "", err
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("docker0 has no address")
}

// buildsDir is where jobs see their slot's directory.
func (o *installOptions) buildsDir(p *installPlan) string {
	if p.found.BuildsDir != "" && p.layout != runnerconf.Called {
		return filepath.Clean(p.found.BuildsDir)
	}
	return "/builds"
}
