package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/install"
	"github.com/roost-ci/roost/internal/runnerconf"
)

// installPlan is everything that an installation puts in place.
type installPlan struct {
	wish   wish
	found  *runnerconf.Found
	layout runnerconf.Layout
	files  []install.File
	// secret are paths that are never shown.
	secret map[string]bool
	// runnerUnits are services of gitlab-runner; agentUnits are ours, in the order of start.
	runnerUnits, agentUnits []string
	// verify is where the runner's token is asked for, with which token.
	verifyURL, verifyToken string
	notes                  []string
	home                   string // the jobs' user's, where the runner worked
	kept                   string // lines of the runner's own unit
	keptSecret             bool   // they were not for everybody to read
}

// rootOr is the cure of an error about a file that only root may see, else another.
func rootOr(cure string, err error) string {
	if errors.Is(err, os.ErrPermission) {
		return "run it as root"
	}
	return cure
}

// plan works out what an installation puts in place. old is the journal of the one before.
func (o *installOptions) plan(old *install.Journal, line *joinLine) (*installPlan, error) {
	p := &installPlan{wish: o.wish, secret: map[string]bool{}}
	real, err := filepath.EvalSymlinks(o.Config)
	if err != nil {
		return nil, usageError(fmt.Errorf("GitLab Runner's configuration: %w", err), rootOr("say where it is with --config", err))
	}
	p.wish.Config = real
	text, ok, err := old.Original(real)
	if err == nil && !ok {
		err = os.ErrNotExist
	}
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", real, err), rootOr("", err))
	}
	f, err := runnerconf.Parse(text)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s: %w", real, err), "")
	}
	if p.found, err = f.Inspect(o.Runner); err != nil {
		var r *runnerconf.RefusedError
		if errors.As(err, &r) {
			return nil, usageError(fmt.Errorf("%s: %w", real, err), r.Cure)
		}
		return nil, usageError(fmt.Errorf("%s: %w", real, err), "")
	}
	if err := o.settle(p); err != nil {
		return nil, err
	}
	tokens, err := o.slotTokens(old, p.wish.Slots, p.found.Token)
	if err != nil {
		return nil, err
	}
	if err := o.roostFiles(p, tokens, line); err != nil {
		return nil, err
	}
	if err := o.unitFiles(p); err != nil {
		return nil, err
	}
	return p, o.runnerFiles(p, f, tokens)
}

func (o *installOptions) path(name string) string { return filepath.Join(o.etc, name) }

func (p *installPlan) add(path, text string, mode os.FileMode) {
	p.files = append(p.files, install.File{Path: path, Text: []byte(text), Mode: mode})
}

func (p *installPlan) addSecret(path, text string) {
	p.add(path, text, 0o600)
	p.secret[path] = true
}
