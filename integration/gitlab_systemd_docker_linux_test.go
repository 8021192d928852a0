package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/dockertest"
	"github.com/roost-ci/roost/internal/testenv"
)

// dockerConfig is a runner's whose jobs run in containers with services.
const dockerConfig = `concurrent = 2
check_interval = 1

[[runners]]
  name = "rig"
  url = "%s"
  token = "%s"
  executor = "docker"
  [runners.docker]
    image = "tools:1"
    helper_image = "tools:1"
    pull_policy = "never"
    volumes = ["/srv/meet:/meet"]
`

// startDocker boots the machine with Debian's docker, which has its bridge, in a network
// of the machine's own.
func (r *rig) startDocker(address string) *dockertest.Daemon {
	r.t.Helper()
	testenv.Require(r.t, "docker", "dockerd", "containerd")
	for _, u := range []string{"docker.service", "docker.socket", "containerd.service"} {
		require.NoError(r.t, os.Remove(filepath.Join(r.path("/etc/systemd/system"), u)))
	}
	for _, d := range []string{"docker", "containerd"} {
		require.NoError(r.t, os.Mkdir(filepath.Join(r.dir, "lib", d), 0o711))
	}
	require.NoError(r.t, os.WriteFile(r.path("/etc/default/docker"), []byte(
		`DOCKER_OPTS="--iptables=false --ip-masq=false --exec-opt native.cgroupdriver=cgroupfs"`+"\n"), 0o644))
	r.ownNetwork(address)
	r.boot()
	r.do("systemctl", "start", "docker")
	return dockertest.At(r.t, "unix:///proc/"+r.init()+"/root/run/docker.sock")
}

// TestInstalledForDocker: roost install gitlab for the docker executor with a real daemon
// and its bridge. Two jobs at once, one in each slot, each have their workspace at the
// same path, their own service, and their artifacts through the bridge.
func TestInstalledForDocker(t *testing.T) {
	if testing.Short() {
		t.Skip("boots a machine")
	}
	t.Parallel()
	testenv.Require(t, testenv.Git, "su", "useradd")
	r := makeRig(t)
	const address = "10.99.0.1" // containers have to get to GitLab, too
	d := r.startDocker(address)
	d.Image("tools:1")
	d.Service("echo:1", "GITLABTEST_RUNNER_COMMAND=1", "echo-server")
	var gl *gitlabtest.GitLab
	var err error
	r.inNetwork(func() { gl, err = gitlabtest.Start(t.TempDir(), gitlabtest.Options{Listen: address + ":0"}) })
	require.NoError(t, err)
	t.Cleanup(gl.Down)
	r.copy(roostBinary(t), "/usr/bin/roost")
	config := fmt.Sprintf(dockerConfig, gl.URL(), gl.AddRunner(gitlabtest.RunnerDef{}).Token())
	r.stockRunner(config)
	require.Contains(t, r.do("roost", "install", "gitlab", "--with-coordinator"), "the runner verifies through Roost")
	p := gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
	l := &lab{fleet: &fleet{t: t}, gl: gl} // for its words
	pl := l.run(p, servicePipeline())
	build := says(pl.Job("build"))
	one, two := says(pl.Job("test-one")), says(pl.Job("test-two"))
	for _, got := range []map[string]string{one, two} {
		require.Equal(t, "FULL", got["state"])
		require.Equal(t, build["dir"], got["dir"])
		require.Equal(t, build["stamp"], got["stamp"])
		require.Contains(t, got["answer"], "heard me in "+build["dir"])
	}
	require.NotEqual(t, strings.Fields(one["answer"])[0], strings.Fields(two["answer"])[0], "each has its own service")
	require.Equal(t, "2", says(pl.Job("join"))["results"], "%s", pl.Job("join").Trace)
	require.Empty(t, d.Docker("ps", "-aq"))
	r.do("systemctl", "restart", "docker") // the mounts of the slots are seen by the new one, too
	l.run(p, servicePipeline())
	r.do("roost", "uninstall", "gitlab")
	require.Equal(t, config, r.do("cat", "/etc/gitlab-runner/config.toml"))
	gl.MustBeRight(t)
}

// servicePipeline has two jobs with a service at once between two others. The artifacts
// of both go to the last one.
func servicePipeline() gitlabtest.PipelineDef {
	say := []string{"echo state=$ROOST_WORKSPACE_STATE", "echo dir=$PWD", "cat stamp"}
	ask := `for i in $(seq 600); do exec 3<>/dev/tcp/echo/7007 && break; sleep 0.1; done 2> /dev/null; echo "me in $PWD" >&3; read -r answer <&3; echo "answer=$answer"`
	def := func(me, other string) gitlabtest.JobDef {
		return gitlabtest.JobDef{
			Name: "test-" + me, Stage: "test", Services: []string{"echo:1"}, Artifacts: gitlabtest.Archive("result-" + me),
			// Both are there until both have asked.
			Script: append(say, ask, "touch /meet/$CI_PIPELINE_ID-"+me,
				fmt.Sprintf("for i in $(seq 1200); do test -e /meet/$CI_PIPELINE_ID-%s && break; sleep 0.05; done; test -e /meet/$CI_PIPELINE_ID-%s", other, other),
				"echo $answer > result-"+me),
		}
	}
	return chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"echo stamp=$RANDOM$RANDOM > stamp", say[0], say[1], say[2]}},
		def("one", "two"), def("two", "one"),
		gitlabtest.JobDef{Name: "join", Script: []string{"echo results=$(cat result-one result-two | grep -c heard)"}},
	)
}
