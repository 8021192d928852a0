package tree

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// TestGoCache recognises what the go command of this machine makes, and merges
// two jobs' caches without being told of them.
func TestGoCache(t *testing.T) {
	testenv.Require(t, testenv.Go)
	dir := t.TempDir()
	src := filepath.Join(dir, "src")
	require.NoError(t, os.Mkdir(src, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(src, "go.mod"), []byte("module x\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(src, "x.go"), []byte("package x\n\nvar X = 1\n"), 0o644))
	var parents []party
	for _, job := range []string{"a", "b"} {
		root := filepath.Join(dir, job)
		require.NoError(t, os.Mkdir(root, 0o755))
		cmd := exec.Command("go", "build", ".")
		cmd.Dir = src
		cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(root, "cache"), "GOFLAGS=", "GOWORK=off")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		m, err := Scan(t.Context(), root, ScanOptions{})
		require.NoError(t, err)
		require.True(t, findMarks(m).caches["cache"])
		parents = append(parents, party{job, m})
	}
	// Same is nil: every file of equal size is taken to differ.
	got, err := mergeTrees(nil, parents, MergeOptions{})
	require.NoError(t, err)
	for _, p := range parents {
		for i := range p.Tree.Entries {
			e := &p.Tree.Entries[i]
			x, ok := got.Tree.Find(e.Path)
			require.True(t, ok, e.Path)
			if x.Type == snapshot.TypeFile {
				first, ok := parents[0].Tree.Find(e.Path)
				if !ok {
					first = e
				}
				require.Equal(t, first.Source, x.Source)
			}
		}
	}
}

// TestNotAGoCache: git's objects have the same directories.
func TestNotAGoCache(t *testing.T) {
	lines := []string{"d/README=x"}
	for i := range 256 {
		lines = append(lines, fmt.Sprintf("d/%02x/", i), fmt.Sprintf("objects/%02x/", i))
	}
	caches := func(lines []string) int { return len(findMarks(nil, mk(t, lines...)).caches) }
	require.Equal(t, 1, caches(lines))
	require.Zero(t, caches(lines[1:]), "no README")
	require.Zero(t, caches(lines[:len(lines)-2]), "no ff")
	lines[1] = "d/00=file"
	require.Zero(t, caches(lines), "00 is a file")
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		glob, path     string
		match, covered bool
	}{
		{"build/**", "build", true, true},
		{"build/**", "build/a/b", false, true},
		{"build/", "build", true, true},
		{"./build/**/*", "build", true, true},
		{"/build", "build", true, true},
		{"build/*", "build", false, false},
		{"build/*", "build/a", true, true},
		{"build/*", "build/a/b", false, true},
		{"build", "rebuild", false, false},
		{"build", "build2/x", false, false},
		{"**", "", true, true},
		{"**", "a/b", false, true},
		{".", "a", false, true},
		{"**/target/**", "target", true, true},
		{"**/target/**", "a/b/target", true, true},
		{"**/target/**", "a/target/x", false, true},
		{"{a,b}/**", "b", true, true},
		{"*.o", "x.o", true, true},
		{"*.o", "d/x.o", false, false},
		{"**/*.o", "d/x.o", true, true},
		{"**/*.o", "x.o", true, true},
		{"*", "b\xff\xfe", true, true},
		{"a[bc]", "ab", true, true},
		{`a\*`, "a*", true, true},
		{`a\*`, "ab", false, false},
	} {
		g, err := newGlob(c.glob)
		require.NoError(t, err, c.glob)
		require.Equal(t, c.match, g.match(c.path), "%q matches %q", c.glob, c.path)
		require.Equal(t, c.covered, g.covers(c.path), "%q covers %q", c.glob, c.path)
	}
	for _, bad := range []string{"", "[", "a/{b"} {
		_, err := newGlob(bad)
		require.Error(t, err, bad)
		_, err = mergeTrees(nil, []party{{"a", mk(t)}, {"b", mk(t)}}, MergeOptions{Atomic: []string{bad}})
		require.ErrorContains(t, err, "atomic")
	}
}
