package integration

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/internal/testenv"
)

// sources are a project that is built by make and by go.
var sources = map[string]string{
	".gitignore": "out/\n.gocache/\n",
	"Makefile": `SRC = a b c
all: out/all
out/all: $(SRC:%=out/%)
	cat $^ > $@
out/%: %.txt
	@mkdir -p out
	echo made $@; tr a-z A-Z < $< > $@
`,
	"a.txt": "one\n", "b.txt": "two\n", "c.txt": "three\n",
	"go.mod":   "module example.test/app\n\ngo 1.26\n",
	"x/x.go":   "package x\n\nfunc X() int { return 1 }\n",
	"y/y.go":   "package y\n\nimport \"example.test/app/x\"\n\nfunc Y() int { return x.X() }\n",
	"z/z.go":   "package z\n\nfunc Z() int { return 3 }\n",
	"gobuild":  "#!/bin/sh\nPATH=$GODIR:$PATH\nexport GOCACHE=\"$PWD/.gocache\" GOFLAGS=-mod=mod GOWORK=off GOTOOLCHAIN=local\ngo build -x ./... 2>&1\n",
	"compiled": "#!/bin/sh\n./gobuild > out/log || { cat out/log; exit 1; }\ngrep -o 'compile.* -p [a-z./]*' out/log | sed 's/.* -p //' | sort | tr '\\n' ' '\n",
}

// builds is a pipeline of six jobs, all of which build.
func builds(t *testing.T) gitlabtest.PipelineDef {
	program, err := exec.LookPath("go")
	require.NoError(t, err)
	var jobs []gitlabtest.JobDef
	for _, name := range []string{"build", "unit", "lint", "check", "package", "deploy"} {
		jobs = append(jobs, gitlabtest.JobDef{Name: name, Variables: public("GODIR", filepath.Dir(program)), Script: []string{
			`if make -q; then echo made=nothing; else echo made=$(make -s | sed 's,.*/,,' | tr '\n' ' '); fi`,
			`echo compiled=$(./compiled)`,
			`echo dirty=$(git status --porcelain)`,
			`echo state=$ROOST_WORKSPACE_STATE`,
		}})
	}
	return chain(jobs...)
}

// TestGitLabSixInALine: a pipeline whose jobs come one after another stays on its host
// and moves nothing. What was made is not made again: not in the next job, not in the
// next pipeline, and after a commit only what depends on it.
func TestGitLabSixInALine(t *testing.T) {
	testenv.Require(t, testenv.Go, testenv.Git, "make")
	t.Parallel()
	l := newLab(t, held, 3, 1)
	p := l.gl.AddProject(t, "group/app", sources)

	first := l.run(p, builds(t))
	require.Equal(t, "a b c", trim(says(first.Job("build"))["made"]))
	require.Equal(t, "example.test/app/x example.test/app/y example.test/app/z", trim(says(first.Job("build"))["compiled"]))
	l.inOnePlace(first, "", api.OriginNone)

	again := l.run(p, builds(t))
	host := l.inOnePlace(again, l.hostOf(first.Job("build")), api.OriginSeed)
	l.madeNothing(again.Jobs())

	p.Commit(t, "main", map[string]string{"b.txt": "zwei\n", "z/z.go": "package z\n\nfunc Z() int { return 33 }\n"})
	next := l.run(p, builds(t))
	l.inOnePlace(next, host, api.OriginSeed)
	require.Equal(t, "b", trim(says(next.Job("build"))["made"]))
	require.Equal(t, "example.test/app/z", trim(says(next.Job("build"))["compiled"]))
	l.madeNothing(next.Jobs()[1:])
	l.gl.MustBeRight(t)
}

// TestGitLabPace: a runner that takes its time, as real ones do, gets the next job of its
// line nevertheless: to end one when GitLab says that it isn't done with its log, and to
// ask for another.
func TestGitLabPace(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	l := newLabWithoutHosts(t, gitlabtest.Options{LongPoll: 20 * time.Second, Flush: 1, UpdateInterval: 3 * time.Second})
	l.scale = 1
	for i := range 2 {
		l.addHost(hostName(i), 1)
	}
	p := l.gl.AddProject(t, "group/app", map[string]string{"README": "x\n"})
	var jobs []gitlabtest.JobDef
	for _, name := range []string{"build", "unit", "deploy"} {
		jobs = append(jobs, gitlabtest.JobDef{Name: name, Script: []string{"date > last", "echo state=$ROOST_WORKSPACE_STATE"}})
	}
	l.inOnePlace(l.run(p, chain(jobs...)), "", api.OriginNone)
	l.gl.MustBeRight(t)
}

func trim(s string) string { return strings.TrimSpace(s) }

// inOnePlace says that all jobs of a pipeline ran on one host, found all of what the job
// before left, and moved nothing. origin is that of the first job.
func (l *lab) inOnePlace(pl *gitlabtest.Pipeline, host, origin string) string {
	l.t.Helper()
	rec := l.record(pl)
	require.Len(l.t, rec.Jobs, len(pl.Jobs()))
	for i, j := range rec.Jobs {
		if host == "" {
			host = j.Host
		}
		require.Equal(l.t, host, j.Host, "%s: %s", j.Name, j.Placed.Reason)
		require.Equal(l.t, host, l.hostOf(pl.Job(j.Name)), j.Name)
		require.Zero(l.t, j.Workspace.BytesMoved, j.Name)
		if i > 0 {
			origin = api.OriginParent
		}
		require.Equal(l.t, origin, j.Workspace.Origin, "%s: %s", j.Name, j.Workspace.Reason)
		if origin != api.OriginNone {
			require.Equal(l.t, api.StateFull, j.Workspace.State, j.Name)
			require.Equal(l.t, api.SourceLocal, j.Workspace.Source, j.Name)
			require.Equal(l.t, "FULL", says(pl.Job(j.Name))["state"], j.Name)
		}
	}
	return host
}

func (l *lab) madeNothing(jobs []gitlabtest.Job) {
	l.t.Helper()
	for _, j := range jobs {
		require.Equal(l.t, "nothing", says(j)["made"], "%s:\n%s", j.Name, j.Trace)
		require.Empty(l.t, says(j)["compiled"], "%s:\n%s", j.Name, j.Trace)
		require.Empty(l.t, says(j)["dirty"], "%s:\n%s", j.Name, j.Trace)
	}
}
