package coordinator

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// git runs git in dir and gives its output.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(dir, args...)
	require.NoError(t, err, "git %s: %s", strings.Join(args, " "), out)
	return strings.TrimSpace(out)
}

func tryGit(dir string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// A job fetches its pipeline's commit from the work tree on the coordinator's
// machine with an ordinary git, and can do nothing else there.
func TestGitSource(t *testing.T) {
	testenv.Require(t, testenv.Git)
	src := t.TempDir()
	git(t, src, "init", "-q")
	require.NoError(t, os.WriteFile(filepath.Join(src, "f"), []byte("one"), 0o644))
	git(t, src, "add", "f")
	git(t, src, "commit", "-q", "-m", "one")
	first := git(t, src, "rev-parse", "HEAD")
	require.NoError(t, os.WriteFile(filepath.Join(src, "f"), []byte("two"), 0o644))
	git(t, src, "commit", "-q", "-a", "-m", "two")
	git(t, src, "checkout", "-q", "--detach", first)
	// A hook of the served tree must never run.
	hook := filepath.Join(src, ".git", "hooks", "post-upload-pack")
	require.NoError(t, os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+filepath.Join(src, "ran")+"\n"), 0o755))

	b := newBench(t)
	h := b.newHost("h", 1)
	p, err := b.user.Submit(t.Context(), "k", api.Submit{
		Project: "p", File: "f", Text: "a:\n  script: x\nb:\n  script: x\n  variables: {GIT_STRATEGY: none}\n",
		Source: &api.Source{Dir: src, Ref: "main", Commit: first},
	})
	require.NoError(t, err)
	c := h.claim()
	require.Equal(t, "a", c.Job.Name)
	require.Empty(t, c.Source.Dir)
	require.Equal(t, first, c.Source.Commit)
	require.Equal(t, b.http.URL+"/v1/git/"+string(c.Attempt), c.Source.URL)

	bearer := "http.extraHeader=Authorization: Bearer " + c.Token
	for _, v := range []string{"0", "2"} {
		dir := t.TempDir()
		git(t, dir, "init", "-q")
		git(t, dir, "-c", bearer, "-c", "protocol.version="+v, "fetch", "-q", "--depth=1", c.Source.URL, first)
		git(t, dir, "checkout", "-q", "FETCH_HEAD")
		got, err := os.ReadFile(filepath.Join(dir, "f"))
		require.NoError(t, err)
		require.Equal(t, "one", string(got))
		git(t, dir, "-c", bearer, "-c", "protocol.version="+v, "fetch", "-q", "--unshallow", c.Source.URL, "HEAD")
	}
	require.NoFileExists(t, filepath.Join(src, "ran"))

	dir := t.TempDir()
	git(t, dir, "init", "-q")
	out, err := tryGit(dir, "-c", bearer, "push", c.Source.URL, "HEAD:refs/heads/x")
	require.Error(t, err, out)
	out, err = tryGit(dir, "fetch", c.Source.URL)
	require.Error(t, err, out)
	out, err = tryGit(dir, "-c", "http.extraHeader=Authorization: Bearer "+agentToken, "fetch", c.Source.URL)
	require.Error(t, err, out)
	for _, path := range []string{"/info/refs?service=git-receive-pack", "/HEAD", "/objects/info/packs", "/info/refs"} {
		res, _ := b.try("GET", "/v1/git/"+string(c.Attempt)+path, c.Token)
		require.Equal(t, 403, res.StatusCode, path)
	}
	res, _ := b.try("POST", "/v1/git/"+string(c.Attempt)+"/git-receive-pack", c.Token)
	require.Equal(t, 403, res.StatusCode)

	h.begin(c)
	h.succeed(c)
	c = h.claim()
	require.Equal(t, "b", c.Job.Name)
	require.Nil(t, c.Source, "it wants no checkout")
	require.NotEmpty(t, p.ID)
}
