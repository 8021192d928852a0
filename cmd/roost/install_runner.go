package main

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/roost-ci/roost/internal/runnerconf"
)

// runnerFiles are GitLab Runner's own.
func (o *installOptions) runnerFiles(p *installPlan, f *runnerconf.File, tokens []string) error {
	dir := filepath.Join(filepath.Dir(p.wish.Config), "roost")
	address := "http://127.0.0.1:" + strconv.Itoa(p.wish.Port)
	if p.wish.Address != "" {
		address = "http://" + net.JoinHostPort(p.wish.Address, strconv.Itoa(p.wish.Port))
	}
	self, err := roostProgram()
	if err != nil {
		return err
	}
	out, err := f.Make(p.found, runnerconf.Plan{
		Layout: p.layout, Address: address, Tokens: tokens, BuildsDir: o.buildsDir(p),
		SlotsDir: filepath.Join(o.lib, "slots"), Program: self, User: p.wish.User, Dir: dir,
		Args: customArgs(o.socket), Home: p.home,
	})
	if err != nil {
		return usageError(fmt.Errorf("%s: %w", p.wish.Config, err), "nothing was changed; write the entry in the usual way, as gitlab-runner register does, and try again")
	}
	p.notes = append(p.notes, slices.Concat(p.found.Notes, out.Notes)...)
	for i, text := range out.Slots {
		p.add(filepath.Join(dir, fmt.Sprintf("slot%d.toml", i+1)), string(text), 0o600)
		p.runnerUnits = append(p.runnerUnits, fmt.Sprintf("gitlab-runner-roost@%d.service", i+1))
	}
	// The runner's own file is the last to change and the first to come back.
	p.add(p.wish.Config, string(out.Main), 0o600)
	if p.layout != runnerconf.Called {
		p.verifyURL, p.verifyToken = address+"/slot1/api/v4/runners/verify", tokens[0]
	}
	return nil
}

// customArgs are what the custom executor's calls need besides.
func customArgs(socket string) []string {
	if socket == defaultSocket {
		return nil
	}
	return []string{"--socket", socket}
}
