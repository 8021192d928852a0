package main

import (
	"os"
	osuser "os/user"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/agent"
	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/plugin/gitlab"
)

// What the file says reaches pool and adapter.
func TestGitLabAdapter(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { unmountIdle(filepath.Join(dir, "slots")) })
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	c := configs.Default()
	c.Agent.StoreDir = filepath.Join(dir, "store")
	c.GitLab.URL, c.GitLab.Executor, c.GitLab.ListenDocker = "https://gitlab.example.org/", "docker", "172.17.0.1:929"
	c.GitLab.TokenFiles = []string{file("real", "# of GitLab\nglrt-real\n")}
	c.GitLab.SlotTokensFile = file("local", "local-token-0000000001\nlocal-token-0000000002\n")
	c.GitLab.APITokenFile = file("api", "glpat-x\n")
	require.NoError(t, c.Validate())

	opts := agent.Options{Name: "host-a"}
	require.NoError(t, gitlabAdapter(&opts, c, hclog.NewNullLogger()))
	require.Equal(t, 2, opts.Slots)
	require.Equal(t, []string{"glrt-real"}, opts.Pool.Tokens)
	require.Equal(t, "https://gitlab.example.org", opts.Pool.URL)
	require.Equal(t, "glpat-x", opts.Pool.APIToken)
	require.EqualValues(t, 60000, opts.Pool.FetchBudgetMS)
	require.Equal(t, filepath.Join(dir, "slots"), opts.SlotsDir)
	require.NotNil(t, opts.Plugin)

	conf, err := pluginConfig(c, opts.Pool.Tokens)
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.1:929", "172.17.0.1:929"}, conf.Listen)
	require.Equal(t, []gitlab.Slot{{Number: 1, Token: "local-token-0000000001"}, {Number: 2, Token: "local-token-0000000002"}}, conf.Slots)

	c.GitLab.BuildsDir, c.GitLab.SlotsDir = "", filepath.Join(dir, "other")
	conf, err = pluginConfig(c, opts.Pool.Tokens)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "other", "2"), conf.Slots[1].BuildsDir, "where there is no namespace the path is the slot's")

	opts = agent.Options{Name: "host-a", Slots: 3}
	require.ErrorContains(t, gitlabAdapter(&opts, c, hclog.NewNullLogger()), "agent.slots is 3")
	if u, err := osuser.Current(); err == nil && runtime.GOOS != "windows" { // jobs and adapter must not be one user
		for _, name := range []string{u.Username, u.Uid} {
			opts = agent.Options{Name: "host-a"}
			same := c
			same.GitLab.RunAs, same.GitLab.PluginUser = u.Username, name
			require.ErrorContains(t, gitlabAdapter(&opts, same, hclog.NewNullLogger()), "gitlab.plugin_user")
		}
	}
	require.NoError(t, os.Chmod(c.GitLab.TokenFiles[0], 0o644))
	require.ErrorContains(t, gitlabAdapter(&opts, c, hclog.NewNullLogger()), "chmod 600")
}
