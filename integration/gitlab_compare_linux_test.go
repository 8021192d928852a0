package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
)

// fill makes a script's line that fills a directory with big files of 5 MiB, half random
// and half text, and small ones of about 1 KiB.
func fill(dir string, big, small int) string {
	return fmt.Sprintf(`mkdir -p %[1]s/small; for i in $(seq %[2]d); do { head -c 2621440 /dev/urandom; seq -f "a line of text of file $i, number %%012.0f" 62000; } > %[1]s/big$i; done
pad=$(printf %%01000d 7); for i in $(seq %[3]d); do d=%[1]s/small/$((i / 100)); test -d $d || mkdir $d; printf '%%s %%s\n' $i $pad > $d/$i; done`, dir, big, small)
}

// measured is a script that says how long it took itself, in nanoseconds.
func measured(lines ...string) []string {
	return append(append([]string{"began=$(date +%s%N)"}, lines...), `echo own=$(($(date +%s%N) - began))`)
}

// passedOn is a pipeline that makes mib MiB in two jobs and reads it in four others. What
// a job makes is uploaded if artifacts says so. With 0 MiB nothing is made or read.
func passedOn(mib int, artifacts bool) gitlabtest.PipelineDef {
	keep := func(path string) []gitlabtest.Artifact {
		if !artifacts {
			return nil
		}
		return gitlabtest.Archive(path)
	}
	big, small := max(2, mib*200/1024), max(100, mib*20000/1024)
	if mib == 0 {
		return chain(
			gitlabtest.JobDef{Name: "prepare", Script: measured()}, gitlabtest.JobDef{Name: "build", Script: measured()},
			gitlabtest.JobDef{Name: "test1", Stage: "test", Script: measured()}, gitlabtest.JobDef{Name: "test2", Stage: "test", Script: measured()},
			gitlabtest.JobDef{Name: "test3", Stage: "test", Script: measured()}, gitlabtest.JobDef{Name: "package", Script: measured()},
		)
	}
	sum := `echo sum=$(find deps out -type f | LC_ALL=C sort | xargs cat | cksum)`
	jobs := []gitlabtest.JobDef{
		{Name: "prepare", Script: measured(fill("deps", big/2, small/2)), Artifacts: keep("deps/")},
		{Name: "build", Script: measured("test -d deps/small", fill("out", big-big/2, small-small/2), sum), Artifacts: keep("out/")},
	}
	for i := range 3 {
		jobs = append(jobs, gitlabtest.JobDef{Name: fmt.Sprint("test", i+1), Stage: "test", Script: measured(sum)})
	}
	return chain(append(jobs, gitlabtest.JobDef{Name: "package", Script: measured(sum)})...)
}

// overhead is what the jobs of a pipeline took in GitLab beyond their scripts.
func overhead(t *testing.T, how string, pl *gitlabtest.Pipeline) time.Duration {
	t.Helper()
	var sum, own time.Duration
	first, last := time.Time{}, time.Time{}
	for _, j := range pl.Jobs() {
		n, err := strconv.ParseInt(says(j)["own"], 10, 64)
		require.NoError(t, err, "%s:\n%s", j.Name, j.Trace)
		over := j.Ended.Sub(j.Started) - time.Duration(n)
		t.Logf("%-9s %-8s %6d ms, its script %6d ms", how, j.Name, j.Ended.Sub(j.Started).Milliseconds(), n/1e6)
		sum, own = sum+over, own+time.Duration(n)
		if first.IsZero() {
			first = j.Queued
		}
		last = j.Ended
		if j.Name != "prepare" {
			require.Equal(t, says(pl.Job("build"))["sum"], says(j)["sum"], "%s: %s read something else", how, j.Name)
		}
	}
	t.Logf("%-9s jobs' overhead %d ms, scripts %d ms, the pipeline %d ms", how, sum.Milliseconds(), own.Milliseconds(), last.Sub(first).Milliseconds())
	return sum
}

// TestGitLabAgainstArtifacts runs the same pipeline on three hosts with plain runners,
// which pass files on as artifacts, and with Roost. ROOST_GITLAB_MIB is how much is passed
// on; 64 if it is not set.
func TestGitLabAgainstArtifacts(t *testing.T) {
	testenv.Require(t, testenv.Git, testenv.Root)
	mib := 64
	if s := os.Getenv("ROOST_GITLAB_MIB"); s != "" {
		var err error
		mib, err = strconv.Atoi(s)
		require.NoError(t, err)
		t.Setenv("ROOST_GITLAB_MIB", s) // so that it comes back; roost refuses what it does not know
		require.NoError(t, os.Unsetenv("ROOST_GITLAB_MIB"))
	}
	const slots = 2 // of each host
	files := map[string]string{"README": "x\n", ".gitignore": "deps/\nout/\n"}
	var floor, plain, roost time.Duration
	t.Run("artifacts", func(t *testing.T) {
		gl := gitlabtest.New(t, held)
		token := gl.AddRunner(gitlabtest.RunnerDef{}).Token()
		p := gl.AddProject(t, "group/app", files)
		for i := range 3 {
			name := hostName(i)
			dir := filepath.Join(stateDir(t), "builds")
			require.NoError(t, os.Mkdir(dir, 0o755))
			runner.Start(t, runner.Config{
				Entries: []runner.Entry{{Name: name, URL: gl.URL(), Token: token, Executor: "shell", BuildsDir: dir, Limit: slots}},
				Scale:   30, SystemID: "s_" + name,
			})
		}
		pl := p.Run(t, passedOn(0, false))
		pl.MustWait(t, gitlabtest.Success, 5*time.Minute)
		floor = overhead(t, "nothing", pl)
		pl = p.Run(t, passedOn(mib, true))
		pl.MustWait(t, gitlabtest.Success, 20*time.Minute)
		plain = overhead(t, "artifacts", pl)
		gl.MustBeRight(t)
		require.Equal(t, 1, pl.Job("prepare").Log.Uploads)
	})
	t.Run("roost", func(t *testing.T) {
		l := newLab(t, held, 3, slots)
		p := l.gl.AddProject(t, "group/app", files)
		pl := p.Run(t, passedOn(mib, false))
		pl.MustWait(t, gitlabtest.Success, 20*time.Minute)
		roost = overhead(t, "roost", pl)
		for _, j := range l.record(pl).Jobs {
			t.Logf("%-8s on %s, %s, %d MiB moved, attached in %.0f ms, sealed in %.0f ms: %s", j.Name, j.Host, j.Workspace.Source,
				j.Workspace.BytesMoved>>20, j.Workspace.AttachMS, j.Workspace.SealMS, j.Placed.Reason)
		}
		l.gl.MustBeRight(t)
	})
	if t.Failed() {
		return
	}
	ratio := float64(plain) / float64(roost)
	t.Logf("%d MiB: the jobs' overhead is %.2f s by artifacts and %.2f s with Roost: %.1f times less. It is %.2f s with nothing to pass on",
		mib, plain.Seconds(), roost.Seconds(), ratio, floor.Seconds())
	if mib >= 256 {
		require.GreaterOrEqual(t, ratio, 2.0)
		return
	}
	// Of so little most is the runner's own, and on a busy machine nearly all.
	require.Greater(t, ratio, 1.2)
}
