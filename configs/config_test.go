package configs

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestExampleIsTheDefault(t *testing.T) {
	c, err := Parse(Example(), nil)
	require.NoError(t, err)
	want := Default()
	want.Agent.Tags, want.Coordinator.GitLabURLs, want.GitLab.TokenFiles = []string{}, []string{}, []string{}
	require.Equal(t, want, c)
	file, err := os.ReadFile("roost.toml")
	require.NoError(t, err)
	require.Equal(t, Example(), string(file), "run: make docs")
	doc, err := os.ReadFile(filepath.Join("..", "docs", "configuration.md"))
	require.NoError(t, err)
	require.Equal(t, Reference(), string(doc), "run: make docs")
}

func TestParseReportsEverythingAtOnce(t *testing.T) {
	_, err := Parse(`
[coordinator]
listn = "127.0.0.1:1"
host_lease = "1s"
[agent]
slots = 1000
upload_rate = "fast"
coordinator = "ftp://x"
tags = ["a b"]
name = "-"
driver = "copy"
[store]
driver = "btrfs"
backing = "zfs-loop"
backing_size = "1MiB"
backing_space = "thin"
`, nil)
	require.Error(t, err)
	for _, want := range []string{
		`unknown key "coordinator.listn" (did you mean "coordinator.listen"?)`,
		"coordinator.host_lease", "agent.slots: 1000 is not from 0 to 256",
		`unknown key "agent.driver": it is store.driver now`, "agent.upload_rate", "agent.coordinator", "agent.tags", "agent.name",
		`store.driver: "btrfs" is none of auto, erofs`, `store.backing: "zfs-loop" is none of none, xfs-loop`,
		`store.backing_size: "1MiB" is less`, `store.backing_space: "thin" is none of reserved, sparse`,
	} {
		require.ErrorContains(t, err, want)
	}
}

func TestParseReportsWrongTypesWithTheRest(t *testing.T) {
	_, err := Parse(`
slot = 1
[agent]
slots = "many"
tags = [[1]]
name = {a = 1}
listen = "x"
[store]
driver = "btrfs"
`, nil)
	require.Error(t, err)
	for _, want := range []string{
		`agent.slots: want an integer, not "many"`, "agent.tags[0]: want a string", "agent.name: want a string",
		`unknown key "slot"`, `unknown key "agent.listen"`, `store.driver: "btrfs" is none of`,
	} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), `"agent.name`, "known, if wrong")
	_, err = Parse("agent = 3", nil)
	require.ErrorContains(t, err, "agent: ")
}

func TestLoopbackOnly(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:80": true, "localhost:0": true, "[::1]:80": true, "127.9.9.9:1": true,
		"0.0.0.0:80": false, ":80": false, "example.org:80": false, "10.0.0.1:80": false, "127.0.0.1": false,
	} {
		require.Equal(t, ok, Loopback(addr) == nil, addr)
	}
}

func TestLoadMissingFileNamesTheCure(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "none.toml"), nil)
	require.ErrorContains(t, err, "roost config example")
}

func TestNotTOML(t *testing.T) {
	_, err := Parse("[agent\nname=", nil)
	require.ErrorContains(t, err, "not TOML")
}
