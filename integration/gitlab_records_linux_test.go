package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
)

// held is a GitLab as most are: a request for a job is held until there is one.
var held = gitlabtest.Options{LongPoll: 20 * time.Second}

// newPinnedLab is a lab whose last host is a pool of its own, which takes jobs with its
// name as their tag and no others.
func newPinnedLab(t *testing.T, o gitlabtest.Options, hosts, slots int) *lab {
	t.Helper()
	l := newLabWithoutHosts(t, o)
	last := hostName(hosts - 1)
	l.alone = map[string]string{last: l.gl.AddRunner(gitlabtest.RunnerDef{Tags: []string{last}, TaggedOnly: true}).Token()}
	for i := range hosts {
		l.addHost(hostName(i), slots)
	}
	return l
}

func hostName(i int) string { return fmt.Sprintf("host-%c", 'a'+i) }

// run runs a pipeline that has to succeed, and shows what it said if it did not.
func (l *lab) run(p *gitlabtest.Project, def gitlabtest.PipelineDef) *gitlabtest.Pipeline {
	l.t.Helper()
	pl := p.Run(l.t.(*testing.T), def)
	l.ends(pl, gitlabtest.Success)
	return pl
}

// ends waits for the end of a pipeline.
func (l *lab) ends(pl *gitlabtest.Pipeline, want gitlabtest.Status) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	got, err := pl.Wait(ctx)
	if err == nil && got == want {
		return
	}
	for _, j := range pl.Jobs() {
		l.t.Logf("%s: %s %s\n%s", j.Name, j.Status, j.FailureReason, j.Trace)
	}
	require.NoError(l.t, err, "the pipeline does not end")
	require.Equal(l.t, want, got)
}

// record is what the coordinator knows of a pipeline.
func (l *lab) record(pl *gitlabtest.Pipeline) *api.Pipeline {
	l.t.Helper()
	all, err := l.client.Pipelines(l.t.Context(), "", 100)
	require.NoError(l.t, err)
	for _, p := range all {
		if strings.HasPrefix(p.File, fmt.Sprintf("pipeline %d, ", pl.ID)) {
			full, err := l.client.Pipeline(l.t.Context(), p.ID)
			require.NoError(l.t, err)
			return full
		}
	}
	l.t.Fatalf("the coordinator knows no pipeline %d", pl.ID)
	return nil
}

// newest is the record of the newest job of a name.
func newest(t testing.TB, p *api.Pipeline, name string) *api.Job {
	t.Helper()
	for i := len(p.Jobs) - 1; i >= 0; i-- {
		if p.Jobs[i].Name == name {
			return &p.Jobs[i]
		}
	}
	t.Fatalf("the coordinator knows no job %q", name)
	return nil
}

// said waits until a job's script has said something.
func (l *lab) said(j gitlabtest.Job, what string) gitlabtest.Job {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return strings.Contains(string(j.Now().Trace), what) }, time.Minute, 20*time.Millisecond,
		"job %s never said %q", j.Name, what)
	return j.Now()
}

// mark is a path outside all workspaces that jobs and tests tell each other by.
func (l *lab) mark(name string) string { return filepath.Join(l.dir, "mark-"+name) }

var said = regexp.MustCompile(`(?m)^([a-z]+)=(.*?)\r?$`)

// says gives the lines name=value of a job's log.
func says(j gitlabtest.Job) map[string]string {
	out := map[string]string{}
	for _, m := range said.FindAllStringSubmatch(string(j.Trace), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// chain makes jobs in stages of their own, one after another.
func chain(jobs ...gitlabtest.JobDef) gitlabtest.PipelineDef {
	def := gitlabtest.PipelineDef{Jobs: jobs}
	for i := range jobs {
		if jobs[i].Stage == "" {
			jobs[i].Stage = jobs[i].Name
		}
		if len(def.Stages) == 0 || def.Stages[len(def.Stages)-1] != jobs[i].Stage {
			def.Stages = append(def.Stages, jobs[i].Stage)
		}
	}
	return def
}

// public is a variable of the YAML file.
func public(key, value string) []gitlabtest.Variable {
	return []gitlabtest.Variable{{Key: key, Value: value, Public: true}}
}

func fileTime(t testing.TB, path string) time.Time {
	t.Helper()
	in, err := os.Lstat(path)
	require.NoError(t, err)
	return in.ModTime()
}
