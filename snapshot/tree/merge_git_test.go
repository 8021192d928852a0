package tree

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// repos are three copies of one repository: what a pipeline's first job left, and
// what two jobs after it made of it.
type repos struct {
	t          *testing.T
	base, a, b string
	o          MergeOptions
	hashed     bool // merge manifests without Sources
	noBase     bool
	content    map[string][]byte // by job and path, for hashed
}

func newRepos(t *testing.T) *repos {
	testenv.Require(t, testenv.Git)
	dir := t.TempDir()
	r := &repos{t: t, base: filepath.Join(dir, "base"), a: filepath.Join(dir, "a"), b: filepath.Join(dir, "b"), content: map[string][]byte{}}
	r.o.Same = func(x, y *snapshot.Entry) (bool, error) { return bytes.Equal(r.read(x), r.read(y)), nil }
	require.NoError(t, os.Mkdir(r.base, 0o755))
	r.git(r.base, "init", "-q", "-b", "main")
	r.write(r.base, "f", "1")
	r.commit(r.base, "one")
	r.write(r.base, ".git/hooks/pre-commit", "#!/bin/sh\n")
	return r
}

// split copies base, times included, to a and b.
func (r *repos) split() *repos {
	for _, to := range []string{r.a, r.b} {
		out, err := exec.Command("cp", "-a", r.base, to).CombinedOutput()
		require.NoError(r.t, err, string(out))
	}
	return r
}

func (r *repos) git(dir string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=n", "-c", "user.email=e", "-c", "gc.auto=0", "-c", "safe.directory=*"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+r.t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(r.t, err, "%s: %s", args, out)
	return strings.TrimSpace(string(out))
}

func (r *repos) commit(dir, msg string) {
	r.git(dir, "add", "-A")
	r.git(dir, "commit", "-q", "-m", msg)
}

func (r *repos) write(dir, p, text string) {
	require.NoError(r.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755))
	require.NoError(r.t, os.WriteFile(filepath.Join(dir, p), []byte(text), 0o755))
}

// scan is the manifest of dir. What is as in base has base's Source, as in a view.
func (r *repos) scan(dir string, base *snapshot.Manifest) *snapshot.Manifest {
	m, err := Scan(r.t.Context(), dir, ScanOptions{})
	require.NoError(r.t, err)
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type != snapshot.TypeFile {
			continue
		}
		text, err := os.ReadFile(e.Source)
		require.NoError(r.t, err)
		if r.hashed {
			r.content[hash(text).String()] = text
			e.Source, e.Chunks = "", nil
			if len(text) > 0 {
				e.Chunks = []snapshot.Chunk{{Len: e.Size, ID: hash(text)}}
			}
			continue
		}
		if base != nil {
			if b, ok := base.Find(e.Path); ok && b.MTime == e.MTime && bytes.Equal(r.read(b), text) {
				e.Source = b.Source
			}
		}
	}
	return m
}

func hash(b []byte) snapshot.Digest { return sha256.Sum256(b) }

func (r *repos) read(e *snapshot.Entry) []byte {
	if e.Source == "" {
		if len(e.Chunks) == 0 {
			return nil
		}
		return r.content[e.Chunks[0].ID.String()]
	}
	b, err := os.ReadFile(e.Source)
	require.NoError(r.t, err)
	return b
}

func (r *repos) merge() (map[string]string, []snapshot.Conflict) {
	r.t.Helper()
	var base *snapshot.Manifest
	if !r.noBase {
		base = r.scan(r.base, nil)
	}
	a, b := r.scan(r.a, base), r.scan(r.b, base)
	if r.hashed && r.o.Read == nil {
		r.o.Read = func(e *snapshot.Entry) ([]byte, error) { return r.read(e), nil }
	}
	got, err := mergeTrees(base, []party{{"a", a}, {"b", b}}, r.o)
	var ce *snapshot.ConflictError
	if errors.As(err, &ce) {
		return nil, ce.Conflicts
	}
	require.NoError(r.t, err)
	require.NoError(r.t, Validate(got.Tree))
	out := map[string]string{}
	for i := range got.Tree.Entries {
		e := &got.Tree.Entries[i]
		out[e.Path] = e.Type.String()
		if e.Type == snapshot.TypeFile {
			out[e.Path] = string(r.read(e))
		}
	}
	return out, nil
}

// same asserts that the merge has dir's .git, file by file.
func (r *repos) same(got map[string]string, dir string) {
	r.t.Helper()
	require.Equal(r.t, r.files(dir), inGit(got))
}

func (r *repos) files(dir string) map[string]string {
	out := map[string]string{}
	m := r.scan(dir, nil)
	for i := range m.Entries {
		e := &m.Entries[i]
		out[e.Path] = e.Type.String()
		if e.Type == snapshot.TypeFile {
			out[e.Path] = string(r.read(e))
		}
	}
	return inGit(out)
}

func inGit(files map[string]string) map[string]string {
	out := map[string]string{}
	for p, text := range files {
		if below(p, ".git") {
			out[p] = text
		}
	}
	return out
}

var gitConflict = []snapshot.Conflict{{Path: ".git", Kind: snapshot.ConflictGit, Jobs: [2]string{"a", "b"}}}

func TestMergeGit(t *testing.T) {
	for _, c := range gitMerges {
		for _, hashed := range []bool{false, true} {
			name := c.name
			if hashed {
				name += ", hashed"
			}
			t.Run(name, func(t *testing.T) {
				r := newRepos(t)
				r.hashed = hashed
				c.setup(r)
				got, conflicts := r.merge()
				c.check(t, r, got, conflicts)
			})
		}
	}
}

// TestMergeGitUnread: what can't be read can't be told to be the same commit.
func TestMergeGitUnread(t *testing.T) {
	for name, read := range map[string]func(*snapshot.Entry) ([]byte, error){
		"error": func(*snapshot.Entry) ([]byte, error) { return nil, os.ErrNotExist },
		"short": func(*snapshot.Entry) ([]byte, error) { return []byte("re"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepos(t).split()
			r.hashed = true
			r.o.Read = read
			r.write(r.a, ".git/description", "a")
			r.write(r.b, ".git/description", "b")
			_, conflicts := r.merge()
			require.Equal(t, gitConflict, conflicts)
		})
	}
}

// TestMergeNestedGit: a repository anywhere in the tree is one, too.
func TestMergeNestedGit(t *testing.T) {
	r := newRepos(t)
	r.git(r.base, "init", "-q", "-b", "main", "vendor/x")
	r.split()
	r.write(r.a, "vendor/x/y", "1")
	r.git(filepath.Join(r.a, "vendor/x"), "add", "y")
	r.git(filepath.Join(r.a, "vendor/x"), "commit", "-q", "-m", "m")
	r.write(r.b, "vendor/x/.git/description", "b")
	_, conflicts := r.merge()
	require.Equal(t, []snapshot.Conflict{{Path: "vendor/x/.git", Kind: snapshot.ConflictGit, Jobs: [2]string{"a", "b"}}}, conflicts)
}
