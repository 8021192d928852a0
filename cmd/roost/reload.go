package main

import (
	"context"
	"errors"
	"os"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

// hangup tells the two meanings of SIGHUP apart: the terminal has gone, or somebody
// wants a daemon to read its file again.
type hangup struct {
	terminal bool // there was one at the start
	wanted   atomic.Bool
	again    chan struct{}
}

type hangupKey struct{}

func newHangup() *hangup { return &hangup{terminal: hasTerminal(), again: make(chan struct{}, 1)} }

// reload takes a SIGHUP as the wish to reload, if it is one.
func (h *hangup) reload() bool {
	if !h.wanted.Load() || h.terminal && !hasTerminal() {
		return false
	}
	select {
	case h.again <- struct{}{}:
	default: // one is under way that has not read the file yet
	}
	return true
}

// hasTerminal reports whether the process has a controlling terminal. One that was hung
// up can't be opened.
func hasTerminal() bool {
	f, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// reloading is a daemon's section of the file, read again on SIGHUP.
type reloading struct {
	section []string
	was     configs.Config
	load    func() (configs.Config, error)
	// apply takes over what can change. It must take all or nothing.
	apply func(configs.Config) error
	log   hclog.Logger
}

// reloads lets SIGHUP read the file again, until ctx ends. Without a file there is
// nothing to read, and SIGHUP stops the daemon as it does any program.
func (s *service) reloads(cmd *cobra.Command, ctx context.Context, r reloading) {
	h, ok := cmd.Context().Value(hangupKey{}).(*hangup)
	if !ok || s.config == "" {
		return
	}
	h.wanted.Store(true)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-h.again:
				r.once(s.config)
			}
		}
	}()
}

// once reads the file and takes over what can be. A file that is wrong changes nothing.
func (r *reloading) once(path string) {
	is, err := r.load()
	if err == nil {
		err = r.apply(is)
	}
	if err != nil {
		var e *exitError
		if errors.As(err, &e) && e.err != nil {
			err = e.err
		}
		r.log.Error("THE CONFIGURATION IS NOT TAKEN OVER; the one before stays", "file", path, "error", err)
		return
	}
	var live, later []string
	for _, section := range r.section {
		for _, c := range configs.Changes(section, r.was, is) {
			if c.Live {
				live = append(live, c.Key)
			} else {
				later = append(later, c.Key)
			}
		}
	}
	r.log.Info("configuration read again", "file", path, "changed", live)
	if len(later) > 0 {
		r.log.Warn("these keys changed and NEED A RESTART", "keys", later)
	}
	// What needs a restart is still as it was: say so again next time.
	configs.TakeLive(&r.was, is)
}
