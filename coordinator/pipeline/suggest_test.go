package pipeline

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNearest(t *testing.T) {
	cases := []struct{ word, want string }{
		{"scirpt", "script"},
		{"Script", "script"},
		{"before-script", "before_script"},
		{"before_scripts", "before_script"},
		{"allow_failures", "allow_failure"},
		{"parralel", "parallel"},
		{"whne", "when"},
		{"tag", "tags"},
		{"xyzzy", ""},
		{"x", ""},
		{"", ""},
		{strings.Repeat("script", 20), ""},
	}
	for _, c := range cases {
		got, _ := nearest(c.word, jobKeys)
		require.Equal(t, c.want, got, c.word)
	}
}

func TestDistance(t *testing.T) {
	cases := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"a", "", 1}, {"", "abc", 3}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "xbc", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3},
	}
	for _, c := range cases {
		require.Equal(t, c.want, distance(c.a, c.b), "%q %q", c.a, c.b)
		require.Equal(t, c.want, distance(c.b, c.a), "%q %q", c.b, c.a)
	}
}

// TestKeywords: a key is either done, or known, or neither; and every key that is
// done is read.
func TestKeywords(t *testing.T) {
	for _, key := range jobKeys {
		require.NotContains(t, jobLater, key)
		require.NotContains(t, elsewhere, key)
	}
	for _, key := range workspaceKeys {
		require.NotContains(t, workspaceLater, key)
	}
	for _, key := range globalKeys {
		require.NotContains(t, globalLater, key)
	}
	for _, key := range defaultLater {
		require.Contains(t, jobLater, key)
	}
	for _, key := range defaultKeys {
		require.Contains(t, jobKeys, key)
	}
}

func TestShow(t *testing.T) {
	require.Equal(t, "build: all", show("build: all"))
	require.Equal(t, `""`, show(""))
	require.Equal(t, `"a\nb"`, show("a\nb"))
	require.Equal(t, `"\x1b[31m"`, show("\x1b[31m"))
	require.LessOrEqual(t, len([]rune(show(strings.Repeat("ü", 10000)))), 90)
}
