package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
)

func newConfig() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check, print or explain the configuration file"}
	c.AddCommand(
		newConfigCheck(),
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

// checked is what config check prints with --json.
type checked struct {
	File     string   `json:"file"`
	OK       bool     `json:"ok"`
	Problems []string `json:"problems"`
	// Overrides are variables of the environment that stand for a key.
	Overrides []string `json:"overrides"`
}

func newConfigCheck() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "check FILE",
		Short: "Tell everything that is wrong in a configuration file",
		Long: `Reads a configuration file as a daemon would, with what the environment says
instead, and looks at the tokens and certificates that it names. Ends with 2 if
anything is wrong.` + exitHelp,
		Example: "  roost config check /etc/roost/config.toml\n  roost config check --json /etc/roost/config.toml | jq .problems",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := configs.Load(args[0], os.Environ())
			if err == nil {
				err = configs.CheckFiles(c, ignoreModes)
			}
			r := checked{
				File: args[0], OK: err == nil, Problems: append([]string{}, configs.Problems(err)...),
				Overrides: append([]string{}, configs.Overrides(os.Environ())...),
			}
			if asJSON {
				return r.printJSON(cmd.OutOrStdout())
			}
			if err != nil {
				return usageError(err, "see: roost config reference")
			}
			for _, name := range r.Overrides {
				fmt.Fprintf(cmd.OutOrStdout(), "%s in the environment stands for its key\n", name)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is fine\n", r.File)
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func (r *checked) printJSON(w io.Writer) error {
	if err := printIndented(w, r); err != nil || r.OK {
		return err
	}
	return &exitError{code: exitUsage}
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
