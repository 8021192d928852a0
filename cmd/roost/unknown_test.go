package main

import (
	"io/fs"
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
	for _, words := range []string{"up --driver", "run --driver", "agent --driver", "snapshot mount --driver", "snapshot pull --driver"} {
		require.Contains(t, must(t, append(append([]string{"__complete"}, strings.Fields(words)...), "er")...), "erofs")
	}
	require.Contains(t, must(t, "__complete", "coordinator", "--log-level", ""), "debug")
}

// Whoever may not read something is told who may.
func TestPermissionCures(t *testing.T) {
	denied := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrPermission}
	require.Equal(t, "run it as root", rootOr("other", denied))
	require.Equal(t, "other", rootOr("other", fs.ErrNotExist))
	var e *exitError
	require.ErrorAs(t, snapshotError(t.Context(), denied), &e)
	require.Equal(t, exitFailed, e.code)
	require.Contains(t, e.hint, "root")
}
