package main

import (
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/plugin/gitlab"
	"github.com/roost-ci/roost/plugin/wire"
)

// newPlugin has the adapters that are built in. The agent starts them, from this very
// program, as it would start those of others.
func newPlugin() *cobra.Command {
	c := &cobra.Command{Use: "plugin", Short: "Adapters, started by the agent", Hidden: true}
	c.AddCommand(&cobra.Command{
		Use:   "gitlab",
		Short: "Stand between this host's GitLab runners and their GitLab",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			wire.Main(gitlab.New(gitlab.Options{Version: version, Log: wire.Logger().Named("gitlab")}))
		},
	})
	c.AddCommand(&cobra.Command{
		Use:   "exec",
		Short: "Run the jobs of Roost's own pipelines as processes of this host",
		Args:  cobra.NoArgs,
		Run: func(*cobra.Command, []string) {
			wire.Main(exec.NewPlugin(version, wire.Logger().Named("exec")))
		},
	})
	return c
}
