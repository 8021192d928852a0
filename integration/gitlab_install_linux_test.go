package integration

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

// stockHost is a host as people have it: a GitLab runner with a file that they wrote.
type stockHost struct {
	t                        *testing.T
	bin, dir, config, builds string
	name                     string
	before                   []byte
	port                     string
	env                      []string
}

func newStockHost(t *testing.T, name, url, token string) *stockHost {
	h := &stockHost{t: t, bin: roostBinary(t), dir: filepath.Join(stateDir(t), name), name: name}
	h.builds, h.config = filepath.Join(h.dir, "builds"), filepath.Join(h.dir, "gitlab-runner", "config.toml")
	require.NoError(t, os.MkdirAll(h.builds, 0o755))
	require.NoError(t, os.MkdirAll(filepath.Dir(h.config), 0o755))
	_, h.port, _ = net.SplitHostPort(testenv.Addr(t))
	h.before = []byte(fmt.Sprintf(`# The platform team's runners.
concurrent = 2   # one for each core

[[runners]]
  name = "%s-"
  url = "%s/"
  token = "%s" # of the group
  executor = "shell"
  builds_dir = "%s"
# the end`, name, url, token, h.builds))
	require.NoError(t, os.WriteFile(h.config, h.before, 0o600))
	// Registered before the daemons', so that it runs after them.
	t.Cleanup(func() { exec.Command("umount", filepath.Join(h.dir, "lib", "slots")).Run() })
	return h
}

// roost runs a command as on a host with systemd, which does nothing here.
func (h *stockHost) roost(args ...string) string {
	h.t.Helper()
	cmd := exec.Command(h.bin, append(args, "--etc", filepath.Join(h.dir, "etc"), "--lib", filepath.Join(h.dir, "lib"),
		"--systemd-units", filepath.Join(h.dir, "units"))...)
	cmd.Env = append(os.Environ(), "ROOST_TEST_SYSTEMCTL=true")
	out, err := cmd.CombinedOutput()
	require.NoError(h.t, err, string(out))
	return string(out)
}

func (h *stockHost) conf() string { return filepath.Join(h.dir, "etc", "config.toml") }

// daemon starts what a unit would start.
func (h *stockHost) daemon(what string) *proc {
	p := launch(h.t, h.bin, h.dir, what, append(h.env, "ROOST_AGENT_NAME="+h.name), what, "--config", h.conf())
	h.t.Cleanup(func() {
		p.stop()
		if h.t.Failed() {
			h.t.Logf("%s of %s:\n%s", what, h.name, tailFile(filepath.Join(h.dir, what+".log"), 40))
		}
	})
	p.waitReady()
	return p
}

// runners starts a process for each file of a slot, in the namespace of its unit.
func (h *stockHost) runners() {
	h.t.Helper()
	files, err := filepath.Glob(filepath.Join(filepath.Dir(h.config), "roost", "slot*.toml"))
	require.NoError(h.t, err)
	require.Len(h.t, files, 2)
	for i, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(h.t, err)
		var c struct {
			Runners []struct {
				Name, URL, Token, Executor string
				Limit                      int
				BuildsDir                  string                 `toml:"builds_dir"`
				CustomBuildDir             struct{ Enabled bool } `toml:"custom_build_dir"`
			}
		}
		require.NoError(h.t, toml.Unmarshal(b, &c))
		require.Len(h.t, c.Runners, 1)
		r := c.Runners[0]
		e := runner.Entry{
			Name: r.Name, URL: r.URL, Token: r.Token, Executor: r.Executor, Limit: r.Limit, BuildsDir: r.BuildsDir,
			CustomBuildDir: &r.CustomBuildDir.Enabled, GracefulKill: 2 * time.Second, ForceKill: time.Second,
		}
		p := runner.Start(h.t, runner.Config{
			Entries: []runner.Entry{e}, Scale: 30, SystemID: fmt.Sprintf("s_%s%d", h.name, i),
			LogFile: filepath.Join(h.dir, fmt.Sprintf("runner%d.log", i+1)),
		}, "unshare", "--mount", "--propagation", "slave", "--", "sh", "-c",
			`mount --rbind "$0" "$1" && shift && exec "$@"`, filepath.Join(h.dir, "lib", "slots", fmt.Sprint(i+1)), h.builds)
		h.t.Cleanup(p.Kill)
	}
}

// changeMode edits the file and has the agent read it again.
func (h *stockHost) changeMode(agent *proc) {
	h.t.Helper()
	text, err := os.ReadFile(h.conf())
	require.NoError(h.t, err)
	edited := strings.Replace(string(text), `mode = "optional"`, `mode = "required"`, 1)
	require.NotEqual(h.t, string(text), edited)
	for _, c := range []struct{ text, log string }{
		{"nonsense = 1\n" + edited, "THE CONFIGURATION IS NOT TAKEN OVER"},
		{edited, `registering again: why="the pool has changed"`},
	} {
		require.NoError(h.t, os.WriteFile(h.conf(), []byte(c.text), 0o644))
		agent.mu.Lock()
		require.NoError(h.t, agent.cmd.Process.Signal(syscall.SIGHUP))
		agent.mu.Unlock()
		require.Eventually(h.t, func() bool {
			return strings.Contains(tailFile(filepath.Join(h.dir, "agent.log"), 200), c.log)
		}, time.Minute, 50*time.Millisecond, c.log)
	}
}

// TestInstalledHosts: two stock hosts are installed on, the second with the line of the
// first; a pipeline is sticky on both, over TLS between them; and then they are stock
// hosts again.
func TestInstalledHosts(t *testing.T) {
	testenv.Require(t, testenv.Root, "unshare")
	gl := gitlabtest.New(t, gitlabtest.Options{})
	ra, rb := gl.AddRunner(gitlabtest.RunnerDef{Tags: []string{"only-a"}}), gl.AddRunner(gitlabtest.RunnerDef{Tags: []string{"only-b"}})
	a, b := newStockHost(t, "host-a", gl.URL(), ra.Token()), newStockHost(t, "host-b", gl.URL(), rb.Token())
	_, port, _ := net.SplitHostPort(testenv.Addr(t))
	a.roost("install", "gitlab", "--config", a.config, "--with-coordinator", "--coordinator-listen", "0.0.0.0:"+port, "--port", a.port, "--no-start")
	a.daemon("coordinator")
	a.daemon("agent")
	line, err := exec.Command(a.bin, "coordinator", "join", "--config", a.conf(), "--url", "https://127.0.0.1:"+port).Output()
	require.NoError(t, err)
	file := filepath.Join(b.dir, "join")
	require.NoError(t, os.WriteFile(file, line, 0o600))
	// Another token with other tags: another pool, so that a job can be made to run there.
	b.roost("install", "gitlab", "--config", b.config, "--join", "@"+file, "--port", b.port, "--pool", "b", "--no-start")
	b.env = []string{"ROOST_GITLAB_PLUGIN_USER=nobody"} // who gets to the plugin's directory, and to nothing else
	require.NoError(t, os.Chmod(filepath.Dir(b.dir), 0o711))
	agentB := b.daemon("agent")
	for _, h := range []*stockHost{a, b} {
		out := h.roost("install", "gitlab")
		require.Contains(t, out, "nothing to change")
		require.Contains(t, out, "the runner verifies through Roost")
		h.runners()
	}

	p := gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
	say := `echo "host=$ROOST_HOST state=$ROOST_WORKSPACE_STATE dir=$CI_PROJECT_DIR"`
	pl := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Tags: []string{"only-a"}, Script: []string{say, "mkdir out", "date +%N > out/stamp"}},
		{Name: "test", Stage: "test", Tags: []string{"only-a"}, Script: []string{say, "cat out/stamp", "echo more >> out/stamp"}},
		{Name: "away", Stage: "deploy", Tags: []string{"only-b"}, Script: []string{say, "test $(wc -l < out/stamp) = 2"}},
	}})
	pl.MustWait(t, gitlabtest.Success, time.Minute)
	gl.MustBeRight(t)
	saw := func(job string) map[string]string {
		out := map[string]string{}
		for _, l := range strings.Split(string(pl.Job(job).Trace), "\n") {
			if i := strings.Index(l, "host="); i >= 0 && strings.Contains(l, "dir=/") {
				for _, kv := range strings.Fields(l[i:]) {
					k, v, _ := strings.Cut(kv, "=")
					out[k] = v
				}
			}
		}
		return out
	}
	build, test, away := saw("build"), saw("test"), saw("away")
	require.Equal(t, "host-a", build["host"])
	require.Equal(t, "FULL", test["state"], string(pl.Job("test").Trace))
	require.Equal(t, build["dir"], test["dir"])
	require.Equal(t, "host-b", away["host"])
	require.Equal(t, "FULL", away["state"], string(pl.Job("away").Trace))
	require.Equal(t, filepath.Base(build["dir"]), filepath.Base(away["dir"]))

	b.changeMode(agentB)
	for _, h := range []*stockHost{a, b} {
		out := h.roost("uninstall", "gitlab", "--wait", "20s")
		require.Contains(t, out, "restore "+h.config)
		now, err := os.ReadFile(h.config)
		require.NoError(t, err)
		require.Equal(t, string(h.before), string(now))
	}
	gl.Down() // it may hold a request, which the coordinator never gives up
}
