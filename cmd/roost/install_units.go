package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"slices"
	"strings"
)

// systemdDir is there where systemd is process 1.
const systemdDir = "/run/systemd/system"

// systemd reports whether services can be started here. ROOST_TEST_SYSTEMCTL stands for
// systemctl in tests.
func (o *installOptions) systemd() bool {
	if os.Getenv("ROOST_TEST_SYSTEMCTL") != "" {
		return true
	}
	_, err := os.Stat(systemdDir)
	return err == nil
}

func systemctl(ctx context.Context, args ...string) error {
	name := os.Getenv("ROOST_TEST_SYSTEMCTL")
	if name == "" {
		name = "systemctl"
	}
	out, err := osexec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

func (o *installOptions) reloadUnits(ctx context.Context) error {
	if !o.systemd() || o.noStart {
		return nil
	}
	return systemctl(ctx, "daemon-reload")
}

// start enables and starts the services, the runners' after the agent. The agent is
// started anew if something of it has changed; jobs do not mind.
func (o *installOptions) start(ctx context.Context, p *installPlan, out *outcome) error {
	if o.noStart {
		return nil
	}
	if !o.systemd() {
		if out.Changed {
			out.note("this host has no systemd, so nothing was started. Keep this running as root, and start it at boot: roost agent --config %s", o.path("config.toml"))
			if p.wish.WithCoordinator {
				out.note("and, before it: roost coordinator --config %s", o.path("config.toml"))
			}
		}
		return nil
	}
	if err := o.reloadUnits(ctx); err != nil {
		return err
	}
	for _, u := range p.agentUnits {
		if err := systemctl(ctx, "enable", u); err != nil {
			return err
		}
		verb := "start"
		if out.Changed {
			verb = "restart"
		}
		if err := systemctl(ctx, "--no-block", verb, u); err != nil {
			return err
		}
		if out.Changed {
			out.Started = append(out.Started, u)
		}
	}
	for _, u := range p.runnerUnits {
		if err := systemctl(ctx, "enable", u); err != nil {
			return err
		}
		if err := systemctl(ctx, "--no-block", "start", u); err != nil {
			return err
		}
		if out.Changed {
			out.Started = append(out.Started, u)
		}
	}
	return nil
}

// stopUnits stops services and takes them out of the boot. Runners end their jobs first.
func (o *installOptions) stopUnits(ctx context.Context, units []string) error {
	if !o.systemd() {
		return nil
	}
	var errs []error
	for _, u := range slices.Backward(units) {
		errs = append(errs, systemctl(ctx, "disable", "--now", u))
	}
	return errors.Join(errs...)
}
