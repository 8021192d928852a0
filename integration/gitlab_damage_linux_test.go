package integration

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// blobs lists the files of the blob store.
func (l *lab) blobs() []string {
	l.t.Helper()
	all, err := filepath.Glob(filepath.Join(l.dir, "coordinator", "blobs", "??", "*"))
	require.NoError(l.t, err)
	return all
}

// far is a pipeline whose first job fills a workspace on the first host, and whose others
// are played by hand and have to run on the second.
func far(l *lab) gitlabtest.PipelineDef {
	job := func(name, mode string) gitlabtest.JobDef {
		return gitlabtest.JobDef{
			Name: name, Stage: "far", When: gitlabtest.Manual, Tags: []string{"host-b"}, Variables: public("ROOST_WORKSPACE", mode),
			Script: []string{"echo state=$ROOST_WORKSPACE_STATE", "echo here=$(ls)", "touch " + l.mark(name)},
		}
	}
	return chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"head -c 1M /dev/urandom > big"}},
		job("optional", "optional"), job("required", "required"),
	)
}

// left runs the first job of far and gives the blobs that it made, when all are durable.
func (l *lab) left(p *gitlabtest.Project) (*gitlabtest.Pipeline, []string) {
	l.t.Helper()
	before := l.blobs()
	pl := p.Run(l.t.(*testing.T), far(l))
	l.ends(pl, gitlabtest.ManualJob)
	require.Eventually(l.t, func() bool { return newest(l.t, l.record(pl), "build").Layer.Durable }, time.Minute, 20*time.Millisecond)
	return pl, slices.DeleteFunc(l.blobs(), func(b string) bool { return slices.Contains(before, b) })
}

// newFarLab is a lab of two hosts, of which the second takes jobs with its name as
// their tag, and gets no blob while hold is set.
func newFarLab(t *testing.T, extra string) (l *lab, hold *atomic.Bool) {
	t.Helper()
	hold = &atomic.Bool{}
	var proxy *httputil.ReverseProxy
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for hold.Load() && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && r.Context().Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close) // after the lab
	l = newLabWithoutHosts(t, held)
	to, err := url.Parse(l.url)
	require.NoError(t, err)
	proxy = httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval, proxy.ErrorLog = -1, log.New(io.Discard, "", 0)
	l.extra = extra
	l.alone = map[string]string{"host-b": l.gl.AddRunner(gitlabtest.RunnerDef{Tags: []string{"host-b"}, TaggedOnly: true}).Token()}
	l.via = map[string]string{"host-b": s.URL}
	l.addHost("host-a", 1)
	l.addHost("host-b", 1)
	return l, hold
}

// TestGitLabDegraded: a job whose workspace can't be had any more starts fresh, with one
// loud line in its log, or is failed before its first command, if it needs it.
func TestGitLabDegraded(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l, hold := newFarLab(t, "fetch_budget = \"2s\"\n")
	faults := []struct {
		name   string
		damage func(path string) error
		pl     *gitlabtest.Pipeline
		blobs  []string
	}{
		{name: "corrupt", damage: flipBit},
		{name: "gone", damage: os.Remove},
		{name: "silent", damage: func(string) error { hold.Store(true); return nil }},
	}
	for i := range faults {
		p := l.gl.AddProject(t, "group/"+faults[i].name, map[string]string{"README": "x\n"})
		faults[i].pl, faults[i].blobs = l.left(p)
		require.NotEmpty(t, faults[i].blobs)
	}
	for _, r := range l.hosts["host-a"].runners {
		r.Kill()
	}
	l.agents["host-a"].stop() // or it would make them again
	delete(l.agents, "host-a")
	for _, f := range faults {
		for _, b := range f.blobs {
			require.NoError(t, f.damage(b))
		}
		os.Remove(l.mark("optional"))
		begin := time.Now()
		f.pl.Job("optional").Play()
		l.status(f.pl.Job("optional"), gitlabtest.Success)
		j := f.pl.Job("optional")
		t.Logf("%s: an optional job had ended after %s:\n%s", f.name, time.Since(begin).Round(10*time.Millisecond), j.Trace)
		require.Equal(t, map[string]string{"state": "FRESH", "here": "README"}, says(j), f.name)
		require.Equal(t, 1, strings.Count(string(j.Trace), "WORKSPACE NOT AVAILABLE"), f.name)
		require.FileExists(t, l.mark("optional"))

		begin = time.Now()
		f.pl.Job("required").Play()
		l.status(f.pl.Job("required"), gitlabtest.Failed)
		j = f.pl.Job("required")
		t.Logf("%s: a required job had failed after %s:\n%s", f.name, time.Since(begin).Round(10*time.Millisecond), j.Trace)
		require.Equal(t, "runner_system_failure", j.FailureReason, f.name)
		require.NoFileExists(t, l.mark("required"), f.name)
	}
	l.gl.MustBeRight(t)
}

func flipBit(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(path, b, 0o600)
}

// TestGitLabCanceledFetching: a job that is canceled while its workspace comes from
// elsewhere leaves nothing, and its slot has the next one.
func TestGitLabCanceledFetching(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l, hold := newFarLab(t, "")
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	pl, _ := l.left(p)
	hold.Store(true)
	j := pl.Job("optional")
	j.Play()
	l.given(j)
	begin := time.Now()
	time.Sleep(500 * time.Millisecond)
	j.Cancel()
	var rec *api.Job
	require.Eventually(t, func() bool {
		rec = newest(t, l.record(pl), "optional")
		return rec.Status.Ended()
	}, time.Minute, 50*time.Millisecond, "nobody noticed")
	t.Logf("noticed after %s", time.Since(begin).Round(10*time.Millisecond))
	require.Equal(t, api.StatusCanceled, rec.Status)
	require.NotContains(t, string(j.Now().Trace), "state=")

	hold.Store(false)
	begin = time.Now()
	pl.Job("required").Play()
	l.ends(pl, gitlabtest.Canceled)
	l.status(pl.Job("required"), gitlabtest.Success)
	require.Equal(t, map[string]string{"state": "FULL", "here": "README big"}, says(pl.Job("required")))
	t.Logf("the next job had ended after %s", time.Since(begin).Round(10*time.Millisecond))
	require.False(t, has(t, filepath.Join(l.dir, "host-b", "views"), string(rec.AttemptID)))
	l.gl.MustBeRight(t)
}
