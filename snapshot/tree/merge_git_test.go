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
	for _, c := range []struct {
		name  string
		setup func(r *repos)
		check func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict)
	}{
		{"both refreshed the index", func(r *repos) {
			r.split()
			r.write(r.a, "x", "a")
			r.git(r.a, "add", "x")
			r.write(r.b, "y", "b")
			r.git(r.b, "add", "y")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
			require.Equal(t, "b", got["y"])
		}},
		{"one packed its refs, the other detached", func(r *repos) {
			r.split()
			r.git(r.a, "pack-refs", "--all")
			r.git(r.b, "checkout", "-q", "--detach")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			require.NotContains(t, got, ".git/refs/heads/main")
			r.same(got, r.a)
		}},
		{"one committed, the other did nothing", func(r *repos) {
			r.split()
			r.write(r.b, "f", "2")
			r.commit(r.b, "two")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.b)
			require.Equal(t, "2", got["f"])
		}},
		{"both committed", func(r *repos) {
			r.split()
			r.write(r.a, "x", "2")
			r.commit(r.a, "two")
			r.write(r.b, "y", "3")
			r.commit(r.b, "three")
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"both committed, order", func(r *repos) {
			r.o.Order = true
			r.split()
			r.write(r.a, "x", "2")
			r.commit(r.a, "two")
			r.write(r.b, "y", "3")
			r.commit(r.b, "three")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
		}},
		{"both committed, prefer", func(r *repos) {
			r.o.Prefer = []Prefer{{Glob: ".git/**", Job: "b"}}
			r.split()
			r.write(r.a, "x", "2")
			r.commit(r.a, "two")
			r.write(r.b, "y", "3")
			r.commit(r.b, "three")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.b)
		}},
		{"config and hooks of one", func(r *repos) {
			r.split()
			r.git(r.a, "config", "core.fsmonitor", "/tmp/evil")
			r.write(r.a, ".git/hooks/pre-commit", "evil")
			r.write(r.a, ".git/hooks/post-checkout", "evil")
			require.NoError(r.t, os.Remove(filepath.Join(r.a, ".git/hooks/update.sample")))
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.base)
		}},
		{"config and hooks of both", func(r *repos) {
			r.split()
			for _, d := range []string{r.a, r.b} {
				r.git(d, "config", "x.y", d)
				r.write(d, ".git/hooks/pre-push", d)
			}
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.base)
		}},
		{"locks", func(r *repos) {
			r.split()
			r.write(r.a, ".git/index.lock", "")
			r.write(r.a, ".git/refs/heads/main.lock", "")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.base)
		}},
		{"a branch called config, one called hooks/x", func(r *repos) {
			r.split()
			r.git(r.a, "branch", "config")
			r.git(r.a, "branch", "hooks/x")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
			require.Contains(t, got, ".git/refs/heads/config")
		}},
		{"a submodule's config", func(r *repos) {
			r.git(r.base, "init", "-q", ".git/modules/lib/sub")
			require.NoError(r.t, os.Rename(filepath.Join(r.base, ".git/modules/lib/sub/.git"), filepath.Join(r.base, ".git/modules/lib/s")))
			r.split()
			r.write(r.a, ".git/modules/lib/s/config", "evil")
			r.write(r.a, ".git/modules/lib/s/hooks/x", "evil")
			r.write(r.a, ".git/modules/lib/s/refs/heads/config", strings.Repeat("0", 40))
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			want := r.files(r.a)
			want[".git/modules/lib/s/config"] = r.files(r.base)[".git/modules/lib/s/config"]
			delete(want, ".git/modules/lib/s/hooks/x")
			require.Equal(t, want, inGit(got))
		}},
		{"clones without a base", func(r *repos) {
			r.git(filepath.Dir(r.base), "clone", "-q", r.base, r.a)
			r.git(filepath.Dir(r.base), "clone", "-q", r.base, r.b)
			r.noBase = true
			r.git(r.b, "config", "x.y", "z")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			require.NotContains(t, got, ".git/config")
			require.Contains(t, got, ".git/hooks/update.sample", "the same in both")
			require.Equal(t, got[".git/HEAD"], "ref: refs/heads/main\n")
		}},
		{"clones of other commits without a base", func(r *repos) {
			r.git(filepath.Dir(r.base), "clone", "-q", r.base, r.a)
			r.write(r.base, "g", "2")
			r.commit(r.base, "two")
			r.git(filepath.Dir(r.base), "clone", "-q", r.base, r.b)
			r.noBase = true
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"one has none, without a base", func(r *repos) {
			r.split()
			require.NoError(r.t, os.RemoveAll(filepath.Join(r.b, ".git")))
			r.noBase = true
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
		}},
		{"one deleted it", func(r *repos) {
			r.split()
			require.NoError(r.t, os.RemoveAll(filepath.Join(r.b, ".git")))
		}, func(t *testing.T, _ *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			require.NotContains(t, got, ".git")
		}},
		{"one deleted it, the other changed it", func(r *repos) {
			r.split()
			r.write(r.a, ".git/description", "changed")
			require.NoError(r.t, os.RemoveAll(filepath.Join(r.b, ".git")))
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"no commit yet", func(r *repos) {
			for _, d := range []string{r.a, r.b} {
				require.NoError(r.t, os.Mkdir(d, 0o755))
				r.git(d, "init", "-q", "-b", "main")
			}
			r.noBase = true
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
		}},
		{"a HEAD that makes no sense", func(r *repos) {
			r.split()
			r.write(r.a, ".git/HEAD", "nonsense")
			r.write(r.b, ".git/description", "changed")
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"a HEAD that leads out", func(r *repos) {
			r.split()
			for _, d := range []string{r.a, r.b} {
				r.write(d, ".git/HEAD", "ref: ../f")
				r.write(d, ".git/description", d)
			}
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"refs that go in a circle", func(r *repos) {
			r.split()
			for _, d := range []string{r.a, r.b} {
				r.write(d, ".git/refs/heads/main", "ref: refs/heads/main")
				r.write(d, ".git/description", d)
			}
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"a symlink for a HEAD", func(r *repos) {
			require.NoError(r.t, os.Remove(filepath.Join(r.base, ".git/HEAD")))
			require.NoError(r.t, os.Symlink("refs/heads/main", filepath.Join(r.base, ".git/HEAD")))
			r.split()
			r.write(r.a, ".git/description", "a")
			r.write(r.b, ".git/description", "b")
		}, func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			r.same(got, r.a)
		}},
		{"refs in a reftable", func(r *repos) {
			r.write(r.base, ".git/reftable/tables.list", "x")
			r.split()
			r.write(r.a, ".git/description", "a")
			r.write(r.b, ".git/description", "b")
		}, func(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
			require.Equal(t, gitConflict, conflicts)
		}},
		{"a .git that is no repository", func(r *repos) {
			require.NoError(r.t, os.Remove(filepath.Join(r.base, ".git/HEAD")))
			r.split()
			r.write(r.a, ".git/config", "a")
			r.write(r.b, ".git/b.lock", "b")
		}, func(t *testing.T, _ *repos, got map[string]string, conflicts []snapshot.Conflict) {
			require.Empty(t, conflicts)
			require.Equal(t, "a", got[".git/config"])
			require.Contains(t, got, ".git/b.lock")
		}},
	} {
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
