package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check, print or explain the configuration file"}
	c.AddCommand(
		&cobra.Command{
			Use:     "check FILE",
			Short:   "Tell everything that is wrong in a configuration file",
			Example: "  roost config check /etc/roost/roost.toml",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if _, err := configs.Load(args[0]); err != nil {
					return usageError(err, "see: roost config reference")
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s is fine\n", args[0])
				return nil
			},
		},
		&cobra.Command{
			Use:     "example",
			Short:   "Print a commented file with every key at its default",
			Example: "  roost config example > /etc/roost/roost.toml",
			Args:    cobra.NoArgs,
			Run:     func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), configs.Example()) },
		},
		&cobra.Command{
			Use:   "reference",
			Short: "Print the reference of all keys as Markdown",
			Args:  cobra.NoArgs,
			Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), configs.Reference()) },
		},
	)
	return c
}

// loadConfig reads the file of --config, or the defaults when there is none.
func loadConfig(path string) (configs.Config, error) {
	if path == "" {
		return configs.Default(), nil
	}
	c, err := configs.Load(path)
	if err != nil {
		return c, usageError(err, "check it with: roost config check "+path)
	}
	return c, nil
}
