package integration

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// stockService is the unit that a runner's package makes.
const stockService = `[Unit]
Description=GitLab Runner
ConditionFileIsExecutable=/usr/bin/gitlab-runner
After=network.target

[Service]
StartLimitInterval=5
StartLimitBurst=10
ExecStart=/usr/bin/gitlab-runner "run" "--config" "/etc/gitlab-runner/config.toml" "--working-directory" "/home/gitlab-runner" "--service" "gitlab-runner" "--user" "gitlab-runner"
Restart=always
RestartSec=120
EnvironmentFile=-/etc/sysconfig/gitlab-runner

[Install]
WantedBy=multi-user.target
`

// stockConfig is what people have.
const stockConfig = `# The platform team's runners.
concurrent = 2   # one for each core
check_interval = 1

[[runners]]
  name = "rig"
  url = "%s/"
  token = "%s" # of the group
  executor = "shell"
  [runners.cache]
    MaxUploadedArchiveSize = 0
# the end`

// stockRunner makes the rig a host with a GitLab runner as its package installs it: ours,
// or the real one.
func (r *rig) stockRunner(config string) {
	r.t.Helper()
	program := realRunner
	if program == "" {
		var err error
		program, err = os.Executable()
		require.NoError(r.t, err)
		r.write("/usr/bin/gitlab-runner", 0o755, "#!/bin/sh\nGITLABTEST_RUNNER_COMMAND=1 GITLABTEST_RUNNER_SCALE=10 exec /usr/lib/gitlab-runner \"$@\"\n")
		r.copy(program, "/usr/lib/gitlab-runner")
	} else {
		r.copy(program, "/usr/bin/gitlab-runner")
	}
	r.sh("id gitlab-runner 2>/dev/null || useradd --system --shell /bin/bash --create-home --skel /dev/null gitlab-runner")
	r.sh("mkdir -m 700 -p /etc/gitlab-runner")
	r.write("/etc/gitlab-runner/config.toml", 0o600, config)
	r.write("/etc/systemd/system/gitlab-runner.service", 0o644, stockService)
	r.sh("mkdir /etc/systemd/system/gitlab-runner.service.d")
	r.write("/etc/systemd/system/gitlab-runner.service.d/ours.conf", 0o644, "[Service]\nEnvironment=\"OF_THE_HOST=a b\"\n")
	r.do("systemctl", "daemon-reload")
	r.do("systemctl", "enable", "--now", "gitlab-runner")
}

func (r *rig) write(path string, mode os.FileMode, text string) {
	r.t.Helper()
	cmd := exec.Command("nsenter", "-t", r.init(), "-m", "--", "sh", "-ec", `cat > "$0" && chmod "$1" "$0"`, path, fmt.Sprintf("%o", mode))
	cmd.Stdin = strings.NewReader(text)
	out, err := cmd.CombinedOutput()
	require.NoError(r.t, err, string(out))
}

func (r *rig) copy(from, to string) {
	r.t.Helper()
	f, err := os.Open(from)
	require.NoError(r.t, err)
	defer f.Close()
	cmd := exec.Command("nsenter", "-t", r.init(), "-m", "--", "sh", "-ec", `cat > "$0" && chmod 755 "$0"`, to)
	cmd.Stdin = io.Reader(f)
	out, err := cmd.CombinedOutput()
	require.NoError(r.t, err, string(out))
}

// debianPackage makes the package of this program.
func debianPackage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.Command("go", "tool", "-modfile=tools/nfpm.mod", "nfpm", "package", "-f", "packaging/nfpm.yaml", "-p", "deb", "-t", dir)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOARCH="+runtime.GOARCH, "PKG_VERSION=1.2.3", "ROOST_BINARY="+roostBinary(t))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	found, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// TestInstalledUnderSystemd: the package and roost install gitlab under a real systemd, on
// a host with a stock runner. A pipeline is sticky with one path in both slots; restarts
// of every service under a running job, a reboot and a power cut lose nothing; the host is
// a stock one again after roost uninstall gitlab, to the byte.
func TestInstalledUnderSystemd(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine several times")
	}
	t.Parallel()
	testenv.Require(t, testenv.Git, testenv.Go, "dpkg", "su", "useradd")
	gl := gitlabtest.New(t, gitlabtest.Options{})
	p := gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
	r := newRig(t)
	config := fmt.Sprintf(stockConfig, gl.URL(), gl.AddRunner(gitlabtest.RunnerDef{}).Token())
	r.stockRunner(config)
	l := &lab{fleet: &fleet{t: t}, gl: gl} // for its words
	stock := chain(gitlabtest.JobDef{Name: "build", Script: []string{"echo dir=$PWD", "echo user=$(id -un)", "echo state=$ROOST_WORKSPACE_STATE", "echo env=$OF_THE_HOST"}})
	plain := l.run(p, stock)
	require.Equal(t, "gitlab-runner", says(plain.Job("build"))["user"])

	r.copy(debianPackage(t), "/root/roost.deb")
	r.do("dpkg", "-i", "/root/roost.deb")
	before := r.sh(listing)
	require.NotContains(t, r.do("systemctl", "list-units", "--all", "roost-*"), "active running")
	_, port, _ := net.SplitHostPort(testenv.Addr(t))
	_, agentPort, _ := net.SplitHostPort(testenv.Addr(t))
	out := r.do("roost", "install", "gitlab", "--with-coordinator", "--coordinator-listen", "0.0.0.0:"+port, "--port", agentPort)
	require.Contains(t, out, "the runner verifies through Roost")
	require.Contains(t, r.do("roost", "install", "gitlab"), "nothing to change")
	require.NoError(t, r.active("gitlab-runner"), "the stock service goes on, without any runner")

	r.do("dpkg", "-i", "/root/roost.deb") // an upgrade does no harm
	first := r.pipeline(l, p)
	for _, what := range []string{"user", "env"} {
		require.NotEmpty(t, says(plain.Job("build"))[what])
		require.Equal(t, says(plain.Job("build"))[what], says(first.Job("build"))[what])
	}
	r.restarts(l, p)
	for _, how := range []func(){r.reboot, func() {
		cut := p.Run(t, chain(gitlabtest.JobDef{Name: "cut", Script: []string{"echo begun=yes", "sleep 1000"}}))
		l.said(cut.Job("cut"), "begun=yes")
		r.cut()
		l.ends(cut, gitlabtest.Failed)
		require.Equal(t, "runner_system_failure", cut.Job("cut").FailureReason)
	}} {
		how()
		require.Equal(t, says(r.pipeline(l, p).Job("build"))["dir"], says(first.Job("build"))["dir"])
	}
	refused, err := r.try("dpkg", "--remove", "roost")
	require.Error(t, err)
	require.Contains(t, refused, "first: roost uninstall gitlab")

	require.Contains(t, r.do("roost", "uninstall", "gitlab"), "restore /etc/gitlab-runner/config.toml")
	require.Equal(t, before, r.sh(listing))
	require.NotContains(t, r.do("systemctl", "list-units", "--all", "--plain", "*roost*"), ".service")
	require.Empty(t, r.sh("grep /var/lib/roost/ /proc/self/mountinfo || true"), "nothing is mounted any more")
	require.Equal(t, says(plain.Job("build")), says(l.run(p, stock).Job("build")))
	r.do("dpkg", "--remove", "roost")
	gl.MustBeRight(t)
}

// listing is everything that an installation may change, but for the runner's own system id.
const listing = `cd /etc && find gitlab-runner systemd/system roost ! -name .runner_system_id -printf '%p %y %m %u %l\n' 2>&1 | sort; cat gitlab-runner/config.toml systemd/system/gitlab-runner.service`

// active gives an error unless a service runs.
func (r *rig) active(unit string) error {
	out, err := r.try("systemctl", "is-active", unit)
	if err != nil {
		return fmt.Errorf("%s: %s", unit, out)
	}
	return nil
}

// pipeline runs a pipeline whose second stage needs both slots at once, each of which has
// the first one's files at the same path. A job's daemon does not live on.
func (r *rig) pipeline(l *lab, p *gitlabtest.Project) *gitlabtest.Pipeline {
	l.t.Helper()
	say := []string{"echo state=$ROOST_WORKSPACE_STATE", "echo dir=$PWD", "echo user=$(id -un)", "echo env=$OF_THE_HOST"}
	meet := func(me, other string) gitlabtest.JobDef {
		return gitlabtest.JobDef{Name: "test-" + me, Stage: "test", Script: append(say,
			"cat stamp", fmt.Sprintf("touch /tmp/$CI_PIPELINE_ID-%s; for i in $(seq 1200); do test -e /tmp/$CI_PIPELINE_ID-%s && break; sleep 0.05; done", me, other),
			fmt.Sprintf("test -e /tmp/$CI_PIPELINE_ID-%s", other), "echo "+me+" > "+me)}
	}
	pl := l.run(p, chain(
		gitlabtest.JobDef{Name: "build", Script: append(say, "echo stamp=$CI_PIPELINE_ID > stamp",
			`setsid sh -c 'cd /; exec sleep 54321' > /dev/null 2>&1 < /dev/null &`)},
		meet("one", "two"), meet("two", "one"),
		gitlabtest.JobDef{Name: "join", Script: append(say, "cat stamp one two")},
	))
	build := says(pl.Job("build"))
	require.Regexp(l.t, "^/builds/[0-9a-z]{26}$", build["dir"])
	for _, name := range []string{"test-one", "test-two", "join"} {
		got := says(pl.Job(name))
		require.Equal(l.t, "FULL", got["state"], "%s", pl.Job(name).Trace)
		require.Equal(l.t, build["dir"], got["dir"])
	}
	require.Equal(l.t, says(pl.Job("test-one"))["stamp"], says(pl.Job("join"))["stamp"])
	left, _ := r.try("pgrep", "-f", "sleep 54321")
	require.Empty(l.t, left, "a daemon of a job lives on")
	return pl
}

// restarts has every service start anew below a job, the agent also by kill -9; a stop of
// the slots waits for the job.
func (r *rig) restarts(l *lab, p *gitlabtest.Project) {
	l.t.Helper()
	pl := p.Run(r.t, chain(
		gitlabtest.JobDef{Name: "long", Script: []string{"echo begun=yes", "echo kept > kept", "while ! test -e /tmp/go; do sleep 0.05; done"}},
		gitlabtest.JobDef{Name: "after", Script: []string{"echo state=$ROOST_WORKSPACE_STATE", "cat kept"}},
	))
	l.said(pl.Job("long"), "begun=yes")
	r.do("systemctl", "restart", "roost-coordinator")
	r.do("systemctl", "restart", "roost-agent")
	r.do("systemctl", "reload", "roost-agent")
	// While a slot's runner waits for its job, an agent that died has to come back.
	r.do("systemctl", "restart", "--no-block", "gitlab-runner-roost@1", "gitlab-runner-roost@2")
	died := r.do("systemctl", "show", "--property=MainPID", "roost-agent")
	r.do("systemctl", "kill", "--signal=KILL", "roost-agent")
	require.Eventually(r.t, func() bool {
		now, err := r.try("systemctl", "show", "--property=MainPID", "roost-agent")
		return err == nil && now != died && r.active("roost-agent") == nil
	}, time.Minute, 100*time.Millisecond, "the agent does not come back")
	r.do("touch", "/tmp/go")
	l.ends(pl, gitlabtest.Success)
	require.Equal(r.t, "FULL", says(pl.Job("after"))["state"], "%s", pl.Job("after").Trace)
}
