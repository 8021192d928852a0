package integration

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/dockertest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// newDockerLab is a lab whose runners have the docker executor: each slot's directory
// is the volume /builds of its containers, and nothing else of the host is.
func newDockerLab(t *testing.T, hosts, slots int) *lab {
	t.Helper()
	d := dockertest.Start(t)
	d.Image("tools:1")
	l := newLabWithoutHosts(t, gitlabtest.Options{})
	l.builds = "/builds"
	l.edit = func(host string, slot int, e *runner.Entry) {
		e.Executor, e.BuildsDir, e.CacheDir, e.CustomBuildDir = "docker", "", "", nil
		e.Docker = &runner.Docker{
			Image: "tools:1", HelperImage: "tools:1", NetworkMode: "host", Host: d.Host,
			Volumes: []string{l.slot(host, slot) + ":/builds"},
		}
	}
	for i := range hosts {
		l.addHost(fmt.Sprintf("host-%c", 'a'+i), slots)
	}
	return l
}

// A job in a container works in its workspace at the same path on every host and in
// every slot, sees no other one, and finds what the job before left, also with services.
func TestGitLabDocker(t *testing.T) {
	l := newDockerLab(t, 3, 2)
	p := l.gl.AddProject(t, "group/app", map[string]string{"README.md": "hello\n", "Makefile": "out: README.md\n\tcp README.md out; echo made\n"})
	other := l.gl.AddProject(t, "group/other", map[string]string{"README.md": "other\n"})
	line := []gitlabtest.JobDef{
		{Name: "build", Stage: "build", Image: "tools:1", Script: []string{"make", "pwd", "ls /builds"}, Services: []string{"tools:1"}},
		{Name: "test", Stage: "test", Script: []string{"make", "pwd", "ls /builds"}, AfterScript: []string{"test -f out && echo still there"}},
		{Name: "deploy", Stage: "deploy", Script: []string{"make", "cat out", "ls -ln out"}},
	}
	a := p.Run(t, gitlabtest.PipelineDef{Jobs: line})
	b := other.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
		{Name: "one", Stage: "build", Script: []string{"ls /builds; sleep 1"}}, {Name: "two", Stage: "test", Script: []string{"ls /builds"}},
	}})
	a.MustWait(t, gitlabtest.Success, 2*time.Minute)
	b.MustWait(t, gitlabtest.Success, 2*time.Minute)
	l.gl.MustBeRight(t)

	require.Contains(t, string(a.Job("build").Trace), "\nmade\n")
	names := map[string]bool{}
	for _, name := range []string{"build", "test"} {
		m := regexp.MustCompile(`(?m)^/builds/([0-9a-z]{26})$`).FindStringSubmatch(string(a.Job(name).Trace))
		require.NotNil(t, m, "%s", a.Job(name).Trace)
		names[m[1]] = true
	}
	require.Len(t, names, 1, "one path for a project")
	for _, name := range []string{"test", "deploy"} {
		require.Contains(t, string(a.Job(name).Trace), "'out' is up to date", "%s", a.Job(name).Trace)
	}
	require.Contains(t, string(a.Job("test").Trace), "still there")
	for _, j := range append(a.Jobs(), b.Jobs()...) {
		seen := regexp.MustCompile(`(?m)^[0-9a-z]{26}$`).FindAllString(string(j.Trace), -1)
		require.LessOrEqual(t, len(seen), 1, "job %s sees other workspaces: %s", j.Name, j.Trace)
	}
}
