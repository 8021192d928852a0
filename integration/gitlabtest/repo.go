package gitlabtest

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/cgi"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Project is a project with a repository.
type Project struct {
	ID   int64
	Path string // group/name
	// Variables are the project's settings: they come after those of the YAML file.
	Variables []Variable
	// Depth is the project's git depth. 0: 20; negative: all.
	Depth int

	g         *GitLab
	dir       string
	pipelines int64 // under g.mu
}

const repoConfig = `[core]
	repositoryformatversion = 0
	bare = true
[uploadpack]
	allowAnySHA1InWant = true
[gc]
	auto = 0
`

// AddProject makes a project whose branch main has these files.
func (g *GitLab) AddProject(t testing.TB, path string, files map[string]string) *Project {
	t.Helper()
	g.mu.Lock()
	p := &Project{ID: g.nextLocked(), Path: path, g: g, dir: g.path("repos", path+".git")}
	g.projects[p.ID] = p
	g.mu.Unlock()
	err := os.MkdirAll(p.dir, 0o755)
	if err == nil {
		err = p.git("init", "-q", "--bare", "--initial-branch=main", ".")
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(p.dir, "config"), []byte(repoConfig), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p.Commit(t, "main", files)
	return p
}

// Commit writes files on top of a branch, which is made from main if it isn't there,
// removes others, and returns the new commit. A file that begins with #! is executable.
func (p *Project) Commit(t testing.TB, branch string, files map[string]string, remove ...string) string {
	t.Helper()
	var in bytes.Buffer
	fmt.Fprintf(&in, "commit refs/heads/%s\ncommitter Test <test@example.com> 1700000000 +0000\n", branch)
	fmt.Fprintf(&in, "data 6\ncommit\n")
	if from, err := p.Head(branch); err == nil {
		fmt.Fprintf(&in, "from %s\n", from)
	} else if from, err := p.Head("main"); err == nil {
		fmt.Fprintf(&in, "from %s\n", from)
	}
	for _, name := range remove {
		fmt.Fprintf(&in, "D %s\n", name)
	}
	for name, content := range files {
		mode := "100644"
		if strings.HasPrefix(content, "#!") {
			mode = "100755"
		}
		fmt.Fprintf(&in, "M %s inline %s\ndata %d\n%s\n", mode, name, len(content), content)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = p.dir, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git fast-import: %v: %s", err, out)
	}
	sha, err := p.Head(branch)
	if err != nil {
		t.Fatal(err)
	}
	return sha
}

// Head is a branch's or a tag's commit.
func (p *Project) Head(ref string) (string, error) {
	cmd := exec.Command("git", "rev-parse", "-q", "--verify", ref+"^{commit}")
	cmd.Dir = p.dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s has no %s: %w", p.Path, ref, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Fetch takes a commit of another project, as when a merge request is opened.
func (p *Project) Fetch(t testing.TB, from *Project, sha string) {
	t.Helper()
	if err := p.git("fetch", "-q", from.dir, sha); err != nil {
		t.Fatal(err)
	}
}

func (p *Project) git(args ...string) error {
	cmd := exec.Command("git", args...)
	cmd.Dir = p.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return nil
}

// repoURL is where a job fetches from, with its token.
func (p *Project) repoURL(token string) string {
	u := p.g.url + "/" + p.Path + ".git"
	return strings.Replace(u, "http://", "http://gitlab-ci-token:"+token+"@", 1)
}

// serveGit is git over HTTP for a running job of the project, by its token.
func (g *GitLab) serveGit(w http.ResponseWriter, r *http.Request) {
	path, _, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), ".git/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	user, token, ok := r.BasicAuth()
	if !ok || user != "gitlab-ci-token" || !g.mayFetch(path, token) {
		w.Header().Set("WWW-Authenticate", `Basic realm="GitLab"`)
		http.Error(w, "HTTP Basic: Access denied", http.StatusUnauthorized)
		return
	}
	bin, err := exec.LookPath("git")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h := &cgi.Handler{
		Path: bin, Args: []string{"http-backend"}, Root: "/",
		Env:        []string{"GIT_PROJECT_ROOT=" + g.path("repos"), "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		InheritEnv: []string{"PATH", "HOME"},
	}
	if v := r.Header.Get("Git-Protocol"); v != "" {
		h.Env = append(h.Env, "GIT_PROTOCOL="+v)
	}
	h.ServeHTTP(w, r)
}

func (g *GitLab) mayFetch(path, token string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, j := range g.jobs {
		if j.token == token && j.pipeline.project.Path == path {
			return slices.Contains([]Status{Running, Canceling}, j.status) && g.o.Now().Before(j.expires)
		}
	}
	return false
}
