package exec

import (
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/plugintest"
)

// repo is a repository behind a server that wants a header.
type repo struct {
	dir, url string
	fetches  atomic.Int64
}

const secret = "Authorization: Bearer s3cr3t-canary"

func newRepo(t *testing.T) *repo {
	testenv.Require(t, testenv.Git, testenv.Bash)
	r := &repo{dir: t.TempDir()}
	r.git(t, "init", "-q", "-b", "main")
	path, err := osexec.LookPath("git")
	require.NoError(t, err)
	h := &cgi.Handler{Path: path, Args: []string{"http-backend"}, Env: []string{
		"GIT_PROJECT_ROOT=" + r.dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer s3cr3t-canary" {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		if strings.HasSuffix(q.URL.Path, "git-upload-pack") {
			r.fetches.Add(1)
		}
		h.ServeHTTP(w, q)
	}))
	t.Cleanup(srv.Close)
	r.url = srv.URL + "/.git"
	return r
}

func (r *repo) git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := osexec.Command("git", args...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", args, out)
	return strings.TrimSpace(string(out))
}

// commit writes files and returns the commit's id.
func (r *repo) commit(t *testing.T, files map[string]string) string {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(r.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(p), 0o755))
		require.NoError(t, os.WriteFile(p, []byte(text), 0o644))
	}
	r.git(t, "add", "-A")
	r.git(t, "commit", "-q", "-m", "c")
	return r.git(t, "rev-parse", "HEAD")
}

func (r *repo) source(commit string) *plugin.Source {
	return &plugin.Source{URL: r.url, Ref: "main", Commit: commit, Header: secret}
}

func sourceModes(t *testing.T, test func(t *testing.T, f *fixture)) {
	t.Run("self", func(t *testing.T) { test(t, newFixture(t, Options{})) })
	t.Run("root", func(t *testing.T) { test(t, newFixture(t, Options{RootMode: true})) })
}

func (f *fixture) checkout(t *testing.T, p plugintest.Place, s *plugin.Source, script ...string) (plugin.Result, string) {
	t.Helper()
	var log plugintest.Log
	res, err := f.Run(t.Context(), plugin.Job{
		Attempt: plugintest.NewID(t), View: p.View, Path: p.Path, Source: s, Script: append(script, "true"),
	}, &log)
	require.NoError(t, err)
	return res, log.String()
}

func TestCheckout(t *testing.T) {
	sourceModes(t, func(t *testing.T, f *fixture) {
		r := newRepo(t)
		one := r.commit(t, map[string]string{"a": "1\n", "dir/b": "1\n", "gone": "x", ".gitignore": "out/\n"})
		p := f.place(t)
		res, log := f.checkout(t, p, r.source(one), "git rev-parse HEAD", "mkdir -p out && echo built > out/o && echo u > untracked",
			"env | grep -c -e canary -e GIT_CONFIG || true")
		require.Equal(t, plugin.StatusSuccess, res.Status, log)
		require.Equal(t, one, res.Commit)
		require.Contains(t, log, "\n"+one+"\n")
		require.Contains(t, log, "\n0\n", "the secret reached the job")
		requireFiles(t, p.View, map[string]string{"a": "1\n", "dir/b": "1\n", "gone": "x"})

		// The second pipeline starts from what the first left: git's files change, all
		// else stays, and what did not change keeps its time.
		old := time.Date(2021, 3, 4, 5, 6, 7, 890, time.UTC)
		for _, n := range []string{"a", "dir/b", "out/o", "untracked"} {
			require.NoError(t, os.Chtimes(filepath.Join(p.View, n), old, old))
		}
		require.NoError(t, os.WriteFile(filepath.Join(p.View, ".git", "index.lock"), nil, 0o666))
		require.NoError(t, os.Remove(filepath.Join(r.dir, "gone")))
		two := r.commit(t, map[string]string{"dir/b": "2\n", "new": "n"})
		res, log = f.checkout(t, p, r.source(two))
		require.Equal(t, plugin.StatusSuccess, res.Status, log)
		requireFiles(t, p.View, map[string]string{"a": "1\n", "dir/b": "2\n", "new": "n", "out/o": "built\n", "untracked": "u\n"})
		require.NoFileExists(t, filepath.Join(p.View, "gone"))
		for n, same := range map[string]bool{"a": true, "out/o": true, "untracked": true, "dir/b": false} {
			fi, err := os.Stat(filepath.Join(p.View, n))
			require.NoError(t, err)
			require.Equal(t, same, fi.ModTime().Equal(old), n)
		}

		// At the commit already: nothing is fetched, nothing is written.
		n := r.fetches.Load()
		before := listing(t, p.View)
		res, log = f.checkout(t, p, r.source(two))
		require.Equal(t, plugin.StatusSuccess, res.Status, log)
		require.Contains(t, log, "Already at "+two)
		require.Equal(t, n, r.fetches.Load())
		require.Equal(t, before, listing(t, p.View))

		// What a job broke in git's files is put right.
		require.NoError(t, os.WriteFile(filepath.Join(p.View, "a"), []byte("broken"), 0o644))
		require.NoError(t, os.Remove(filepath.Join(p.View, "new")))
		res, log = f.checkout(t, p, r.source(two))
		require.Equal(t, plugin.StatusSuccess, res.Status, log)
		requireFiles(t, p.View, map[string]string{"a": "1\n", "new": "n", "out/o": "built\n"})
		requireNoSecret(t, p.View)
	})
}

func requireFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	for name, text := range want {
		b, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, text, string(b), name)
	}
}

// listing is every file below dir with its size and time.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		// git rewrites its index once when it holds a file of its own second.
		if err == nil && !d.IsDir() && d.Name() != "index" {
			fmt.Fprintf(&b, "%s %d %d\n", p, fi.Size(), fi.ModTime().UnixNano())
		}
		return err
	}))
	return b.String()
}

func requireNoSecret(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		require.NotContains(t, string(b), "canary", p)
		return err
	}))
}

func TestCheckoutByRefAndDeepCommit(t *testing.T) {
	f, r := newFixture(t, Options{}), newRepo(t)
	first := r.commit(t, map[string]string{"a": "0"})
	last := first
	for i := range 40 {
		last = r.commit(t, map[string]string{"a": fmt.Sprint(i + 1)})
	}
	res, log := f.checkout(t, f.place(t), r.source(""))
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, last, res.Commit)
	p := f.place(t)
	res, log = f.checkout(t, p, r.source(first), "git rev-list --count HEAD")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	require.Equal(t, first, res.Commit)
	requireFiles(t, p.View, map[string]string{"a": "0"})
}

func TestCheckoutFails(t *testing.T) {
	f, r := newFixture(t, Options{}), newRepo(t)
	c := r.commit(t, map[string]string{"a": "1"})
	for name, tc := range map[string]struct {
		s    *plugin.Source
		says string
	}{
		"no such commit": {r.source(strings.Repeat("ab", 20)), ""},
		"no such ref":    {&plugin.Source{URL: r.url, Ref: "nope", Header: secret}, "fetch"},
		"not allowed":    {&plugin.Source{URL: r.url, Ref: "main", Commit: c, Header: "Authorization: Bearer wrong"}, "fetch"},
	} {
		t.Run(name, func(t *testing.T) {
			p := f.place(t)
			res, log := f.checkout(t, p, tc.s, "touch ran")
			require.Equal(t, plugin.StatusSystemFailure, res.Status, log)
			require.Contains(t, res.Reason, tc.says)
			require.Empty(t, res.Commit)
			require.NoFileExists(t, filepath.Join(p.View, "ran"))
		})
	}
}

// TestHostileTree: what an earlier job left in .git runs nothing during a checkout
// that it would not run in the job itself, and never sees the header.
func TestHostileTree(t *testing.T) {
	f, r := newFixture(t, Options{}), newRepo(t)
	one := r.commit(t, map[string]string{"a": "1", ".gitattributes": "* filter=evil\n"})
	p := f.place(t)
	spy := filepath.Join(t.TempDir(), "spy")
	proxied := atomic.Int64{}
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { proxied.Add(1) }))
	defer proxy.Close()
	to := strings.TrimPrefix(proxy.URL, "http://127.0.0.1:")
	res, log := f.checkout(t, p, r.source(one),
		"mkdir -p .git/hooks", "printf '#!/bin/sh\\necho HOOK-RAN >> "+spy+"\\n' > .git/hooks/post-checkout",
		"cp .git/hooks/post-checkout .git/hooks/reference-transaction", "chmod +x .git/hooks/*",
		"git config filter.evil.smudge 'env >> "+spy+"; cat'", "git config core.fsmonitor 'env >> "+spy+"'",
		"git config core.hooksPath .git/hooks", "git config http.proxy "+proxy.URL,
		"git config http.http://127.0.0.1/.proxy "+proxy.URL, "git config http.curloptResolve 127.0.0.1:"+to+":127.0.0.1")
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	os.Remove(spy) //nolint:errcheck // the job's own git may have made it
	two := r.commit(t, map[string]string{"a": "2"})
	res, log = f.checkout(t, p, r.source(two))
	require.Equal(t, plugin.StatusSuccess, res.Status, log)
	b, _ := os.ReadFile(spy)
	require.NotContains(t, string(b), "HOOK-RAN")
	require.NotContains(t, string(b), "canary")
	require.Zero(t, proxied.Load(), "the header went through somebody's proxy")
	requireFiles(t, p.View, map[string]string{"a": "2"})
}

func TestCheckSource(t *testing.T) {
	good := plugin.Source{URL: "https://h/r", Ref: "refs/heads/a-b", Commit: strings.Repeat("a1", 20)}
	require.NoError(t, checkSource(&good))
	for _, edit := range []func(*plugin.Source){
		func(s *plugin.Source) { s.URL = "ext::sh -c id" },
		func(s *plugin.Source) { s.URL = "--upload-pack=id" },
		func(s *plugin.Source) { s.URL = "/local/path" },
		func(s *plugin.Source) { s.URL = "https://h/\nr" },
		func(s *plugin.Source) { s.Ref = "--force" },
		func(s *plugin.Source) { s.Ref = "a b" },
		func(s *plugin.Source) { s.Ref = "a:b" },
		func(s *plugin.Source) { s.Commit = "HEAD" },
		func(s *plugin.Source) { s.Commit = "-" },
		func(s *plugin.Source) { s.Header = "A: b\r\nC: d" },
		func(s *plugin.Source) { s.Ref, s.Commit = "", "" },
	} {
		bad := good
		edit(&bad)
		require.Error(t, checkSource(&bad), "%+v", bad)
	}
}
