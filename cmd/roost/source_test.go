package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/internal/testenv"
)

func TestPickRef(t *testing.T) {
	const out = "ref: refs/heads/trunk\tHEAD\naaa\tHEAD\naaa\trefs/heads/trunk\nbbb\trefs/heads/v1\nccc\trefs/tags/v1\nddd\trefs/tags/v2\neee\trefs/tags/v2^{}\n"
	for want, is := range map[string][2]string{
		"": {"trunk", "aaa"}, "trunk": {"trunk", "aaa"}, "v1": {"v1", "bbb"}, "v2": {"v2", "eee"},
		"refs/tags/v1": {"refs/tags/v1", "ccc"}, "none": {"none", ""},
	} {
		ref, commit := pickRef(out, want)
		require.Equal(t, is, [2]string{ref, commit}, want)
	}
}

// repository makes one with two commits and returns it and their ids.
func repository(t *testing.T) (dir, first, second string) {
	testenv.Require(t, testenv.Git)
	dir = t.TempDir()
	run := func(args ...string) string {
		out, err := git(t.Context(), dir, append([]string{"-c", "user.name=n", "-c", "user.email=e"}, args...)...)
		require.NoError(t, err, args)
		return out
	}
	run("init", "-q", "-b", "trunk")
	run("commit", "-q", "--allow-empty", "-m", "one")
	run("commit", "-q", "--allow-empty", "-m", "two")
	return dir, run("rev-parse", "HEAD~1"), run("rev-parse", "HEAD")
}

// source is what a run of a file in dir would check out, and its project.
func source(t *testing.T, dir string, o runOptions) (*api.Source, string, error) {
	if o.graph == nil {
		o.graph = &pipeline.Graph{Jobs: []pipeline.Job{{Source: true}}}
	}
	c := &cobra.Command{}
	c.SetContext(t.Context())
	c.SetErr(&strings.Builder{})
	var s api.Submit
	err := o.findSource(c, filepath.Join(dir, "ci.yml"), &s)
	return s.Source, s.Project, err
}

func TestSource(t *testing.T) {
	dir, first, second := repository(t)
	top, err := filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	elsewhere := t.TempDir()

	src, project, err := source(t, dir, runOptions{})
	require.NoError(t, err)
	require.Equal(t, &api.Source{Dir: top, Commit: second}, src)
	require.Equal(t, top, project)

	src, project, err = source(t, elsewhere, runOptions{})
	require.NoError(t, err)
	require.Nil(t, src)
	require.Equal(t, elsewhere, project)

	for ref, want := range map[string]api.Source{
		"": {Dir: dir, Commit: second}, "trunk": {Dir: dir, Commit: second, Ref: "trunk"}, "HEAD~1": {Dir: dir, Commit: first},
	} {
		src, project, err = source(t, elsewhere, runOptions{source: "file://" + dir, ref: ref})
		require.NoError(t, err)
		require.Equal(t, dir, project)
		require.Equal(t, &want, src, ref)
	}
	_, _, err = source(t, elsewhere, runOptions{source: dir, ref: "none"})
	require.ErrorContains(t, err, "has no commit none")
	_, _, err = source(t, elsewhere, runOptions{source: "http://127.0.0.1:1/x.git"})
	require.ErrorContains(t, err, "unable to access")
	_, _, err = source(t, elsewhere, runOptions{ref: "trunk"})
	require.ErrorContains(t, err, "--source")
}

// TestSourceThatGitCanNotRead: a work tree is never taken for none, or jobs would
// run in an empty directory.
func TestSourceThatGitCanNotRead(t *testing.T) {
	dir, _, _ := repository(t)
	t.Setenv("PATH", t.TempDir())
	_, _, err := source(t, dir, runOptions{})
	require.ErrorContains(t, err, "git is not in PATH")

	_, _, err = source(t, dir, runOptions{graph: &pipeline.Graph{Jobs: []pipeline.Job{{Source: false}}}})
	require.NoError(t, err, "nobody asks for a commit")
}

func TestSourceWithoutACommit(t *testing.T) {
	testenv.Require(t, testenv.Git)
	dir := t.TempDir()
	_, err := git(t.Context(), dir, "init", "-q")
	require.NoError(t, err)
	_, _, err = source(t, dir, runOptions{})
	require.ErrorContains(t, err, "no commit")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	src, _, err := source(t, dir, runOptions{graph: &pipeline.Graph{Jobs: []pipeline.Job{{Source: false}}}})
	require.NoError(t, err)
	require.Nil(t, src)
}
