package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

func newUp() *cobra.Command {
	var o clusterOptions
	c := &cobra.Command{
		Use:   "up",
		Short: "Keep a coordinator and agents running on this machine",
		Long: `Starts a coordinator and --hosts agents on this machine, prints the address of
the status page and keeps them running until Ctrl-C. roost run with the same
--state uses them.` + exitHelp,
		Example: "  roost up --hosts 2",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runUp(cmd, o) },
	}
	f := c.Flags()
	f.StringVar(&o.state, "state", defaultState(), "directory of the coordinator and the agents")
	f.IntVar(&o.hosts, "hosts", 1, "agents to start")
	f.IntVar(&o.slots, "slots", max(1, runtime.NumCPU()/2), "jobs that each of them runs at once")
	f.StringSliceVar(&o.tags, "tags", nil, "tags that they have, for jobs that ask for some")
	f.StringVar(&o.driver, "driver", "auto", "how they make views: "+strings.Join(configs.Drivers, ", "))
	offer(c, "driver", configs.Drivers...)
	f.StringVar(&o.listen, "listen", "127.0.0.1:7780", "address of the coordinator")
	return c
}

func runUp(cmd *cobra.Command, o clusterOptions) error {
	if o.hosts < 1 {
		return usageError(errors.New("--hosts must be at least 1"), "")
	}
	if err := configs.Loopback(o.listen); err != nil {
		return usageError(fmt.Errorf("--listen: %w", err), "")
	}
	o.shared = true
	o.log = hclog.New(&hclog.LoggerOptions{Name: "roost", Level: hclog.Warn, Output: cmd.ErrOrStderr()})
	cl, err := startCluster(cmd.Context(), o)
	if err != nil {
		return err
	}
	defer cl.Close()
	tokenFile := filepath.Join(cl.state, "coordinator", "user.token")
	token, err := readToken(tokenFile)
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "status page:  %s/?token=%s\n", cl.url, token)
	fmt.Fprintf(w, "coordinator:  %s (token in %s)\n", cl.url, tokenFile)
	fmt.Fprintf(w, "logs:         %s\n", filepath.Join(cl.state, "log"))
	fmt.Fprintf(w, "run something with:  roost run FILE --state %s\n", o.state)
	<-cmd.Context().Done()
	return nil
}
