package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestScrubGit(t *testing.T) {
	const dirty = `[core]
	repositoryformatversion = 0
[remote "origin"]
	url = https://gitlab-ci-token:glcbt-64_SECRET@gitlab.example.org:8443/group/project.git
	fetch = +refs/heads/*:refs/remotes/origin/*
	pushurl = ssh://git@gitlab.example.org/group/project.git
[url "https://gitlab-ci-token:SECRET@gitlab.example.org"]
	insteadOf = https://gitlab.example.org
[http "https://gitlab.example.org"]
	extraheader = AUTHORIZATION: basic SECRET \
		SECRET of a second line
	sslVerify = false
[http] extraHeader=Authorization: Bearer SECRET
[user]
	email = a@example.org
`
	const clean = `[core]
	repositoryformatversion = 0
[remote "origin"]
	url = https://gitlab.example.org:8443/group/project.git
	fetch = +refs/heads/*:refs/remotes/origin/*
	pushurl = ssh://git@gitlab.example.org/group/project.git
[url "https://gitlab.example.org"]
	insteadOf = https://gitlab.example.org
[http "https://gitlab.example.org"]
	
	sslVerify = false
[http] 
[user]
	email = a@example.org
`
	view := t.TempDir()
	write := func(name, s string, mode os.FileMode) string {
		p := filepath.Join(view, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(s), mode))
		return p
	}
	require.NoError(t, scrubGit(view), "no repository")
	config := write(".git/config", dirty, 0o640)
	sub := write(".git/modules/lib/deep/config", dirty, 0o644)
	write(".git/modules/lib/objects/aa/config", dirty, 0o644)
	write(".git/config.lock", "left", 0o644)
	require.NoError(t, scrubGit(view))
	for _, p := range []string{config, sub} {
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		require.Equal(t, clean, string(b))
	}
	fi, err := os.Stat(config)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o640), fi.Mode().Perm())
	require.NoFileExists(t, config+".lock")

	// What is clean is not written to.
	before, err := os.Stat(config)
	require.NoError(t, err)
	require.NoError(t, scrubGit(view))
	after, err := os.Stat(config)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after))
	require.Equal(t, before.ModTime(), after.ModTime())
}

// TestScrubGitStaysInside: links lead nowhere.
func TestScrubGitStaysInside(t *testing.T) {
	const secret = "[remote \"o\"]\n\turl = https://u:p@example.org/\n"
	out := t.TempDir()
	outside := filepath.Join(out, "config")
	require.NoError(t, os.WriteFile(outside, []byte(secret), 0o644))
	for name, make := range map[string]func(view string) error{
		"config is a link": func(v string) error {
			return joinErr(os.Mkdir(filepath.Join(v, ".git"), 0o755), os.Symlink(outside, filepath.Join(v, ".git", "config")))
		},
		".git is a link": func(v string) error { return os.Symlink(out, filepath.Join(v, ".git")) },
		".git is a file": func(v string) error { return os.WriteFile(filepath.Join(v, ".git"), []byte("gitdir: "+out), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			view := t.TempDir()
			require.NoError(t, make(view))
			scrubGit(view) // whatever it says
			b, err := os.ReadFile(outside)
			require.NoError(t, err)
			require.Equal(t, secret, string(b))
		})
	}
	// Nor does the view itself.
	require.NoError(t, os.Mkdir(filepath.Join(out, ".git"), 0o755))
	inside := filepath.Join(out, ".git", "config")
	require.NoError(t, os.WriteFile(inside, []byte(secret), 0o644))
	link := filepath.Join(t.TempDir(), "view")
	require.NoError(t, os.Symlink(out, link))
	require.Error(t, scrubGit(link))
	b, err := os.ReadFile(inside)
	require.NoError(t, err)
	require.Equal(t, secret, string(b))
}

func joinErr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
