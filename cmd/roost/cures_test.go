package main

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// cure is a command line that is wrong, and what has to be said of that.
type cure struct {
	args string
	code int
	want []string
}

func tryCures(t *testing.T, list []cure) {
	for _, c := range list {
		t.Run(c.args, func(t *testing.T) {
			code, out, errs := roost(t, strings.Fields(c.args)...)
			require.Equal(t, c.code, code, "%s%s", out, errs)
			for _, w := range c.want {
				require.Contains(t, errs, w)
			}
		})
	}
}

// TestErrorsNameTheCure tries what people get wrong: each error says what it is about,
// and what to do.
func TestErrorsNameTheCure(t *testing.T) {
	dir := t.TempDir()
	for _, v := range []string{"ROOST_STORE", "ROOST_COORDINATOR", "ROOST_TOKEN_FILE", "ROOST_PIN"} {
		t.Setenv(v, "")
	}
	state, none := filepath.Join(dir, "state"), filepath.Join(dir, "none")
	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte(strings.Repeat("t", 32)), 0o600))
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // who does not trust it hangs up
	srv.StartTLS()
	defer srv.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	tryCures(t, []cure{
		{"gc", 2, []string{"no store is named", "--store-dir DIR", "--config FILE", "--all"}},
		{"verify", 2, []string{"no store is named", "--store-dir DIR", "--config FILE"}},
		{"snapshot ls", 2, []string{"no store is named", "--store DIR", "ROOST_STORE"}},
		{"gc --store-dir " + none, 2, []string{none, "no store.db", "--store-dir"}},
		{"snapshot ls --store " + none, 3, []string{"no store in " + none, "roost snapshot create"}},
		{"status --state " + state, 3, []string{state, "roost up", "--coordinator URL"}},
		{"why job --state " + state, 2, []string{"no pipeline has run in " + state, "--state DIR"}},
		{"status --coordinator http://127.0.0.1:1", 2, []string{"--token-file", "user.token"}},
		{"status --coordinator http://127.0.0.1:1 --token-file " + none, 2, []string{"token file " + none + ": ", "user.token"}},
		{"status --token-file " + token + " --coordinator " + closed.URL, 3, []string{closed.URL, "is it running"}},
		{"status --token-file " + token + " --coordinator " + srv.URL, 3, []string{srv.URL, "--pin"}},
		{"status --token-file " + token + " --pin " + strings.Repeat("0", 64) + " --coordinator " + srv.URL, 3, []string{srv.URL, "new pin"}},
		{"coordinator join --revoke --host h --state-dir " + state, 2, []string{`"h"`, filepath.Join(state, "hosts")}},
		{"config check " + none, 2, []string{none, "roost config example > " + none}},
	})
}

// TestErrorsOfASnapshotNameTheCure does the same in a store that there is.
func TestErrorsOfASnapshotNameTheCure(t *testing.T) {
	t.Setenv("ROOST_STORE", "")
	dir := t.TempDir()
	src, st := filepath.Join(dir, "src"), filepath.Join(dir, "store")
	lay(t, src, map[string]string{"a": "1"})
	id := must(t, "snapshot", "create", src, "--store", st)
	must(t, "snapshot", "create", src, "--store", st, "--base", id)
	unknown := strings.Repeat("0", 26)
	tryCures(t, []cure{
		{"verify " + unknown + " --store-dir " + st, 2, []string{unknown, "roost snapshot ls --store " + st}},
		{"verify nonsense --store-dir " + st, 2, []string{`"nonsense"`, "roost snapshot ls"}},
		{"gc --pin nonsense --store-dir " + st, 2, []string{`"nonsense"`, "roost snapshot ls --store " + st}},
		{"gc --pin " + unknown + " --store-dir " + st, 3, []string{unknown, "roost snapshot ls --store " + st}},
		{"snapshot restore nonsense " + dir + "/b --store " + st, 2, []string{`"nonsense"`, "roost snapshot ls"}},
	})
}

func TestConfigCheckJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "roost.toml")
	t.Setenv("ROOST_AGENT_SLOTS", "3")
	check := func(text string, code int) map[string]any {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		got, out, errs := roost(t, "config", "check", "--json", file)
		require.Equal(t, code, got, errs)
		require.Empty(t, errs, "all is said on standard output")
		m := keysOf(t, out)
		require.Equal(t, file, m["file"])
		require.Equal(t, code == 0, m["ok"])
		return m
	}
	m := check("[agent]\nname = \"a\"\n", 0)
	require.Equal(t, []any{}, m["problems"])
	require.Equal(t, []any{"ROOST_AGENT_SLOTS"}, m["overrides"])

	m = check("[agent]\nnam = \"a\"\ntoken_file = \"/\"\n[store]\ndriver = \"q\"\nlow_water = 95\n", 2)
	require.Len(t, m["problems"], 3, "%v", m)
	require.Contains(t, m["problems"], `unknown key "agent.nam" (did you mean "agent.name"?)`)
	require.NotContains(t, m["problems"].([]any)[0], file)
	m = check("[agent]\ntoken_file = \"/\"\n", 2)
	require.Equal(t, []any{"agent.token_file: / is not a file"}, m["problems"])
	require.Len(t, check("[agent", 2)["problems"], 1)
}

// Who closes the pipe has seen enough.
func TestNobodyReads(t *testing.T) {
	var errs strings.Builder
	gone := &os.PathError{Op: "write", Path: os.Stdout.Name(), Err: syscall.EPIPE}
	require.Equal(t, exitFailed, report(&errs, &exitError{code: exitFailed, err: errors.Join(gone, gone)}))
	require.Empty(t, errs.String())
	gone.Err = syscall.ENOSPC
	require.Equal(t, exitFailed, report(&errs, &exitError{code: exitFailed, err: gone}))
	require.Contains(t, errs.String(), "no space left")
}
