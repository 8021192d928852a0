package tree_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot/tree"
)

func TestExclude(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"a.o", "b/a.o", "b/c/x", "build/out", "b/build/out", "cache/f", "b/cache", "docs/m.pdf", "docs/old/m.pdf"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, p)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, p), nil, 0o644))
	}
	all := "a.o b b/a.o b/build b/build/out b/c b/c/x b/cache build build/out cache cache/f docs docs/m.pdf docs/old docs/old/m.pdf"
	for patterns, gone := range map[string]string{
		"nothing":           "",
		"*.o":               "a.o b/a.o",
		"a.o":               "a.o b/a.o",
		"/a.o":              "a.o",
		"build":             "build build/out b/build b/build/out",
		"/build":            "build build/out",
		"./build":           "build build/out",
		"build/out":         "build/out",
		"build/**":          "build build/out",
		"build/*":           "build/out",
		"cache/":            "cache cache/f",
		"/b/cache/":         "",
		"b/cache":           "b/cache",
		"docs/*.pdf":        "docs/m.pdf",
		"docs/**/*.pdf":     "docs/m.pdf docs/old/m.pdf",
		"**/m.pdf":          "docs/m.pdf docs/old/m.pdf",
		"{cache,docs}":      "cache cache/f b/cache docs docs/m.pdf docs/old docs/old/m.pdf",
		"b build cache a.o": "a.o b b/a.o b/build b/build/out b/c b/c/x b/cache build build/out cache cache/f",
	} {
		x, err := tree.NewExclude(strings.Fields(patterns))
		require.NoError(t, err, patterns)
		var want []string
		for _, p := range strings.Fields(all) {
			if !strings.Contains(" "+gone+" ", " "+p+" ") {
				want = append(want, p)
			}
		}
		m, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Exclude: x})
		require.NoError(t, err, patterns)
		var got []string
		for _, e := range m.Entries[1:] {
			got = append(got, e.Path)
		}
		require.Equal(t, want, got, patterns)
	}
	for _, p := range []string{"", "/", "./", "**", "[", "!x"} {
		_, err := tree.NewExclude([]string{p})
		require.Error(t, err, p)
	}
}
