package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// nearEnough is how many letters apart a command may be that is offered instead.
const nearEnough = 2

// checkWords makes a subcommand that there is not a usage error. Cobra prints the
// help of the command above it and ends with 0, which a script takes for success.
func checkWords(root *cobra.Command, args []string) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "__") { // a shell asks for completions
		return nil
	}
	c, rest, err := root.Find(args)
	if err != nil {
		c, rest = root, args
	}
	if c.Name() == "help" && c.Parent() == root {
		return checkWords(root, rest)
	}
	if c.Runnable() || !c.HasSubCommands() || len(rest) == 0 || strings.HasPrefix(rest[0], "-") || rest[0] == "help" {
		return nil
	}
	hint := "see: " + c.CommandPath() + " --help"
	c.SuggestionsMinimumDistance = nearEnough
	if near := c.SuggestionsFor(rest[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, ", ") + "?"
	}
	return usageError(fmt.Errorf("unknown command %q for %q", rest[0], c.CommandPath()), hint)
}

// offer makes a shell complete a flag by values.
func offer(c *cobra.Command, flag string, values ...string) {
	c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)) //nolint:errcheck // the flag exists, and nobody else completes it
}
