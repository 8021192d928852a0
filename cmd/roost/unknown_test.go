package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What is no command is a usage error wherever it stands, and says what there is.
func TestUnknownCommands(t *testing.T) {
	for words, want := range map[string]string{
		"bogus":              `unknown command "bogus" for "roost"`,
		"snapshto ls":        "did you mean snapshot?",
		"snapshot bogus":     "roost snapshot --help",
		"snapshot lss --x":   "did you mean ls?",
		"config chek":        "did you mean check?",
		"help bogus":         "roost --help",
		"help snapshot nope": "roost snapshot --help",
		"completion korn":    "roost completion --help",
		"plugin x":           "roost plugin --help",
		"snapshot --bogus":   "unknown flag",
		"version extra":      "usage: roost version",
	} {
		code, out, errs := roost(t, strings.Fields(words)...)
		require.Equal(t, exitUsage, code, "%s: %s", words, errs)
		require.Contains(t, errs, want, words)
		require.Empty(t, out, words)
	}
	for _, words := range []string{"", "help", "help snapshot", "help snapshot ls", "snapshot", "snapshot help", "snapshot --help", "completion bash", "completion zsh", "completion fish"} {
		code, out, errs := roost(t, strings.Fields(words)...)
		require.Zero(t, code, "%s: %s", words, errs)
		require.NotEmpty(t, out, words)
	}
	require.Equal(t, must(t, "version"), must(t, "--version"))
	require.Contains(t, must(t, "__complete", "snapshot", "res"), "restore")
}
