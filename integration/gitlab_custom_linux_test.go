package integration

import (
	"encoding/json"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestInstalledCustom: a runner whose url stays GitLab's calls roost, and its jobs are
// sticky on their host all the same, as their own user.
func TestInstalledCustom(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Bash)
	gl := gitlabtest.New(t, gitlabtest.Options{})
	h := newStockHost(t, "host-a", gl.URL(), gl.AddRunner(gitlabtest.RunnerDef{}).Token())
	_, port, _ := strings.Cut(testenv.Addr(t), ":")
	socket := filepath.Join(h.dir, "run", "roost.sock")
	u, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, err := strconv.Atoi(u.Uid)
	require.NoError(t, err)
	require.NoError(t, os.Chown(h.builds, uid, -1))
	h.roost("install", "gitlab", "--config", h.config, "--with-coordinator", "--coordinator-listen", "127.0.0.1:"+port,
		"--executor", "custom", "--user", "nobody", "--socket", socket, "--no-start")
	h.daemon("coordinator")
	h.daemon("agent")

	b, err := os.ReadFile(h.config)
	require.NoError(t, err)
	var c struct{ Runners []map[string]any }
	require.NoError(t, toml.Unmarshal(b, &c))
	r := c.Runners[0]
	require.Equal(t, "custom", r["executor"])
	environment := []string{}
	for _, v := range r["environment"].([]any) {
		environment = append(environment, v.(string))
	}
	e := runner.Entry{
		Environment: environment,
		Name:        "host-a-", URL: r["url"].(string), Token: r["token"].(string), Executor: "custom", BuildsDir: h.builds,
		Limit: int(r["limit"].(int64)), GracefulKill: 2 * time.Second, ForceKill: time.Second, Custom: &runner.Custom{},
	}
	for key, to := range map[string]any{
		"config_exec": &e.Custom.ConfigExec, "config_args": &e.Custom.ConfigArgs, "prepare_exec": &e.Custom.PrepareExec, "prepare_args": &e.Custom.PrepareArgs,
		"run_exec": &e.Custom.RunExec, "run_args": &e.Custom.RunArgs, "cleanup_exec": &e.Custom.CleanupExec, "cleanup_args": &e.Custom.CleanupArgs,
	} {
		raw, err := json.Marshal(r["custom"].(map[string]any)[key])
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(raw, to), key)
	}
	p := runner.Start(t, runner.Config{Entries: []runner.Entry{e}, Scale: 30, SystemID: "s_custom", LogFile: filepath.Join(h.dir, "runner1.log")})
	t.Cleanup(p.Kill)

	pr := gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
	pl := pr.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Script: []string{"id -un", "echo made > out"}},
		{Name: "off", Stage: "build", Variables: []gitlabtest.Variable{{Key: "ROOST_WORKSPACE", Value: "off"}}, Script: []string{"test ! -e left", "echo x > left"}},
		{Name: "off again", Stage: "test", Variables: []gitlabtest.Variable{{Key: "ROOST_WORKSPACE", Value: "off"}}, Script: []string{"test ! -e left"}},
		{Name: "test", Stage: "test", Script: []string{"echo \"state=$ROOST_WORKSPACE_STATE\"", "cat out", "test $(id -un) = nobody"}},
	}})
	pl.MustWait(t, gitlabtest.Success, time.Minute)
	require.Contains(t, string(pl.Job("test").Trace), "state=FULL")
	gl.Down()
}
