package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check, print or explain the configuration file"}
	c.AddCommand(
		&cobra.Command{
			Use:     "check FILE",
			Short:   "Tell everything that is wrong in a configuration file",
			Example: "  roost config check /etc/roost/config.toml",
			Args:    cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return checkConfig(cmd, args[0])
			},
		},
		&cobra.Command{
			Use:     "example",
			Short:   "Print a commented file with every key at its default",
			Example: "  roost config example > /etc/roost/config.toml",
			Args:    cobra.NoArgs,
			Run:     func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), configs.Example()) },
		},
		&cobra.Command{
			Use:   "reference",
			Short: "Print the reference of all keys as Markdown",
			Args:  cobra.NoArgs,
			Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprint(cmd.OutOrStdout(), configs.Reference()) },
		},
		newVariables(),
	)
	return c
}

// checkConfig tells what is wrong in a file, and with the files that it names.
func checkConfig(cmd *cobra.Command, path string) error {
	c, err := configs.Load(path, os.Environ())
	if err == nil {
		err = configs.CheckFiles(c, ignoreModes)
	}
	if err != nil {
		return usageError(err, "see: roost config reference")
	}
	for _, name := range configs.Overrides(os.Environ()) {
		fmt.Fprintf(cmd.OutOrStdout(), "%s in the environment stands for its key\n", name)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is fine\n", path)
	return nil
}

// loadConfig reads the file of --config, or the defaults when there is none. What the
// environment says wins.
func loadConfig(path string) (configs.Config, error) {
	if path == "" {
		c, err := configs.Parse("", os.Environ())
		if err != nil {
			return c, usageError(err, "see: roost config reference")
		}
		return c, nil
	}
	c, err := configs.Load(path, os.Environ())
	if err != nil {
		return c, usageError(err, "check it with: roost config check "+path)
	}
	return c, nil
}
