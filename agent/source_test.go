package agent

import (
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestSource: a job that inherits from its parents gets their tree untouched, also
// where they changed what git tracks; one from a seed, or from nothing, gets the
// commit.
func TestSource(t *testing.T) {
	testenv.Require(t, testenv.Git)
	dir := t.TempDir()
	git := func(args ...string) string {
		cmd := osexec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b",
			"GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	commit := func(text string) string {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte(text), 0o644))
		git("add", ".")
		git("commit", "-q", "-m", "c")
		return git("rev-parse", "HEAD")
	}
	f := newFake(t)
	newHost(t, f, "a").start()
	sourced := func(c api.Claim, sha string) api.Claim {
		c.Source = &api.Source{URL: "file://" + dir, Ref: "main", Commit: sha}
		return c
	}
	one := commit("one")
	build := f.give("a", sourced(job("build", "cat f; echo; echo changed > f; echo out > out; echo sha=$CI_COMMIT_SHA"), one))
	fin := f.green(build)
	require.Equal(t, one, fin.Commit)
	require.Contains(t, f.logOf(build), "\none\n")
	require.Contains(t, f.logOf(build), "\nsha="+one+"\n")

	child := f.give("a", sourced(from(job("child", "cat f out; echo sha=$CI_COMMIT_SHA"), build), one))
	f.green(child)
	require.Contains(t, f.logOf(child), "\nchanged\nout\nsha="+one+"\n")

	two := commit("two")
	c := sourced(from(job("build", "cat f; echo; cat out"), build), two)
	c.Origin = api.OriginSeed
	seeded := f.give("a", c)
	f.green(seeded)
	require.Contains(t, f.logOf(seeded), "\ntwo\n")
	require.Contains(t, f.logOf(seeded), "\nout\n")

	bad := f.give("a", sourced(job("bad", "touch ran"), strings.Repeat("ab", 20)))
	fin = f.finished(bad)
	require.Equal(t, api.FailSource, fin.Code, f.logOf(bad))
	require.True(t, fin.Infrastructure)
}
