//go:build linux

package viewtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// project is built by three tools and kept by a fourth. None of its packages
// imports anything, so that building them takes no time.
var project = map[string]string{
	".gitignore": "/out/\n/.cache/\n/.ninja*\n",
	"Makefile": "out/make/done: out/make/two\n\tcp out/make/two $@\nout/make/two: out/make/one in\n\tcat out/make/one in > $@\n" +
		"out/make/one: in\n\tmkdir -p out/make\n\tcp in $@\n",
	"build.ninja": "rule cp\n  command = cp $in $out\nbuild out/ninja/one: cp in\nbuild out/ninja/two: cp out/ninja/one\n",
	"in":          "the input\n",
	"go.mod":      "module example.com/p\n\ngo 1.24\n",
	"a/a.go":      "package a\n\nimport \"example.com/p/b\"\n\nfunc A() int { return b.B() }\n",
	"b/b.go":      "package b\n\nfunc B() int { return 1 }\n",
	"sub/x/y/z":   "deep\n",
}

// testTools moves a tree with finished builds to another root and to a child view.
// Nobody there finds anything to do, until an input changes.
func testTools(t *testing.T, s Suite) {
	testenv.Require(t, testenv.Git, testenv.Go, "make", "ninja")
	h := newHouse(t, s)
	h.keepTimes = true
	at, home := filepath.Join(h.dir, "slots", "project"), t.TempDir()
	tool := func(name string, args ...string) (string, error) {
		c := exec.Command(name, args...)
		c.Dir = at
		c.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GOCACHE=" + filepath.Join(at, ".cache"), "GOPATH=" + filepath.Join(home, "go"),
			"GOTOOLCHAIN=local", "GOFLAGS=-mod=mod", "GOPROXY=off", "GOTELEMETRY=off", "CGO_ENABLED=0", "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		}
		out, err := c.CombinedOutput()
		return strings.TrimSpace(string(out)), err
	}
	run := func(name string, args ...string) string {
		t.Helper()
		out, err := tool(name, args...)
		require.NoError(t, err, "%s %q: %s", name, args, out)
		return out
	}
	nothingToDo := func(where string) {
		t.Helper()
		require.Empty(t, run("git", "status", "--porcelain"), where)
		run("make", "-q")
		require.Contains(t, run("ninja", "-n"), "no work to do", where)
		require.Empty(t, run("go", "build", "-v", "./..."), where)
	}

	v, err := h.d.Prepare(h.ctx(), view.Spec{ID: h.id(), Target: at})
	require.NoError(t, err)
	for name, text := range project {
		h.write(at, name, text)
	}
	run("git", "init", "-q", "-b", "main")
	run("git", "add", ".")
	run("git", "commit", "-q", "-m", "all")
	run("make")
	run("ninja")
	require.Contains(t, run("go", "build", "-v", "./..."), "example.com/p/b")
	nothingToDo("where it was built")
	a := h.seal(v, nil, nil)

	for where, d := range map[string]struct {
		view.Driver
		base *view.Layer
	}{"a child view": {h.d, a.layer}, "another root": {h.far.d, a.far}} {
		w, err := d.Prepare(h.ctx(), view.Spec{ID: h.id(), Base: d.base, Target: at})
		require.NoError(t, err)
		nothingToDo(where)
		h.write(at, "in", "another input\n")
		h.write(at, "b/b.go", "package b\n\nfunc B() int { return 2 }\n")
		require.Contains(t, run("git", "status", "--porcelain"), "M b/b.go", where)
		_, err = tool("make", "-q")
		require.Error(t, err, where)
		require.NotContains(t, run("ninja", "-n"), "no work to do", where)
		require.Contains(t, run("go", "build", "-v", "./..."), "example.com/p/a", where)
		require.NoError(t, d.Discard(h.ctx(), w))
	}
}
