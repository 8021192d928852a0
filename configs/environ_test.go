package configs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvironmentWinsOverTheFile(t *testing.T) {
	c, err := Parse("[agent]\nslots = 2\nname = \"a\"\n", []string{
		"ROOST_AGENT_SLOTS=7", "ROOST_AGENT_TAGS=x, y,", "ROOST_GITLAB_MODE=required", "ROOST_COORDINATOR=http://10.0.0.1:1",
		"ROOST_TEST_REQUIRE=all", "ROOST_STORE_KILLS=3", "ROOST_WORKSPACE_STATE=FULL", "HOME=/x",
	})
	require.NoError(t, err)
	require.Equal(t, 7, c.Agent.Slots)
	require.Equal(t, "a", c.Agent.Name)
	require.Equal(t, []string{"x", "y"}, c.Agent.Tags)
	require.Equal(t, "required", c.GitLab.Mode)
	require.Equal(t, []string{"ROOST_AGENT_SLOTS"}, Overrides([]string{"ROOST_AGENT_SLOTS=7", "ROOST_AGENT=1"}))

	_, err = Parse("", []string{"ROOST_AGENT_SLOTS=many", "ROOST_AGENT_SLOT=1", "ROOST_GITLAB_COLOUR=red", "ROOST_STORE_DRIVR=copy", "ROOST_AGENT_NAME=-"})
	for _, want := range []string{
		`ROOST_AGENT_SLOTS: want an integer, not "many"`, "unknown variable ROOST_AGENT_SLOT (did you mean ROOST_AGENT_SLOTS?)",
		"unknown variable ROOST_GITLAB_COLOUR: no such key", "did you mean ROOST_STORE_DRIVER?", `agent.name: "-"`,
	} {
		require.ErrorContains(t, err, want)
	}
}

// Every key has a variable, and no two share one.
func TestVariablesAreDistinct(t *testing.T) {
	c, seen := Config{}, map[string]string{}
	for _, f := range fields(&c) {
		require.Empty(t, seen[f.variable()], f.name())
		seen[f.variable()] = f.name()
	}
}

func TestChangesSayWhatNeedsARestart(t *testing.T) {
	was, is := Default(), Default()
	is.Agent.UploadRate, is.Agent.StoreDir, is.Agent.Tags, is.Coordinator.Listen = "1MiB", "/x", []string{}, "127.0.0.1:1"
	require.ElementsMatch(t, []Change{{"agent.upload_rate", true}, {"agent.store_dir", false}}, Changes("agent", was, is))
	TakeLive(&was, is)
	require.Equal(t, []Change{{"agent.store_dir", false}}, Changes("agent", was, is), "it is said again")
}

func TestGitLabSectionIsCheckedWhole(t *testing.T) {
	_, err := Parse(`
[coordinator]
listen = "0.0.0.0:7780"
url = "http://ci:7780"
tls_cert_file = "/c"
gitlab_urls = ["gitlab.example.org"]
[agent]
coordinator = "http://ci:7780"
coordinator_pin = "ab"
[gitlab]
url = "https://user@gitlab.example.org"
executor = "ssh"
listen = "0.0.0.0:9292"
listen_docker = "0.0.0.0:9292"
builds_dir = "builds"
mode = "maybe"
fetch_budget = "2h"
pool = "a b"
plugin_checksum = "x"
`, nil)
	for _, want := range []string{
		"coordinator.tls_cert_file", "coordinator.gitlab_urls", `coordinator.url: "http://ci:7780", but listen = "0.0.0.0:7780" is served with TLS`,
		"agent.coordinator:", "agent.coordinator_pin", "gitlab.url", "gitlab.executor", "gitlab.listen:", "gitlab.listen_docker", "gitlab.builds_dir",
		"gitlab.mode", "gitlab.fetch_budget", "gitlab.pool", "gitlab.plugin_checksum", "gitlab.token_files: missing", "gitlab.slot_tokens_file: missing",
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	c := Default()
	c.Agent.TokenFile = filepath.Join(dir, "none")
	require.NoError(t, CheckFiles(c, false), "a machine with a coordinator alone has no agent's token")
	c.GitLab = GitLab{URL: "https://x", TokenFiles: []string{file("open", "t", 0o644)}, SlotTokensFile: file("empty", "", 0o600), CAFile: file("ca", "x", 0o644)}
	c.Coordinator.TLSCert, c.Coordinator.TLSKey = file("cert", "x", 0o644), file("key", "x", 0o600)
	err := CheckFiles(c, false)
	for _, want := range []string{
		"agent.token_file", "gitlab.token_files", "chmod 600", "gitlab.slot_tokens_file", "is empty", "gitlab.ca_file", "no certificate",
		"coordinator.tls_cert_file",
	} {
		require.ErrorContains(t, err, want)
	}
}
