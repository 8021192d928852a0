package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// gitMerge is a case of TestMergeGit: what two jobs did to the repository that they both
// started from, and what comes of it.
type gitMerge struct {
	name  string
	setup func(r *repos)
	check func(t *testing.T, r *repos, got map[string]string, conflicts []snapshot.Conflict)
}

// isGitConflict is the check of those that only a person can merge.
func isGitConflict(t *testing.T, _ *repos, _ map[string]string, conflicts []snapshot.Conflict) {
	require.Equal(t, gitConflict, conflicts)
}

var gitMerges = []gitMerge{
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
	}, isGitConflict},
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
	}, isGitConflict},
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
	}, isGitConflict},
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
	}, isGitConflict},
	{"a HEAD that leads out", func(r *repos) {
		r.split()
		for _, d := range []string{r.a, r.b} {
			r.write(d, ".git/HEAD", "ref: ../f")
			r.write(d, ".git/description", d)
		}
	}, isGitConflict},
	{"refs that go in a circle", func(r *repos) {
		r.split()
		for _, d := range []string{r.a, r.b} {
			r.write(d, ".git/refs/heads/main", "ref: refs/heads/main")
			r.write(d, ".git/description", d)
		}
	}, isGitConflict},
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
	}, isGitConflict},
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
}
