package view

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A driver that made the layers of a store is not tried there again in the same boot,
// under the same rights, and is in every other case.
func TestProbedOnce(t *testing.T) {
	root, n, ok := t.TempDir(), 0, true
	r := Rung{Name: NameCopy, Open: NewCopy, Probe: func(string) Probed { n++; return Probed{OK: ok, Why: "not now"} }}
	tried := func(root string) bool {
		t.Helper()
		was := n
		_, err := r.try(root, Options{})
		require.Equal(t, n > was && !ok, err != nil)
		return n > was
	}
	require.True(t, tried(root))
	require.False(t, tried(root))
	ok = false
	require.False(t, tried(root), "it is known to work")

	note := filepath.Join(root, probedName)
	good, err := os.ReadFile(note)
	require.NoError(t, err)
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	require.Contains(t, string(good), string(boot))
	for _, other := range []string{
		"", string(good[:len(good)-2]), string(good) + "x",
		strings.Replace(string(good), string(boot), "00000000-0000-0000-0000-000000000000\n", 1),
		strings.Replace(string(good), NameCopy, NameReflink, 1),
		strings.Replace(string(good), "CapEff:", "CapEff:1", 1),
	} {
		require.NoError(t, os.WriteFile(note, []byte(other), 0o600))
		require.True(t, tried(root), other)
	}
	require.NoError(t, os.Remove(note))
	require.True(t, tried(root))
	require.NoFileExists(t, note, "it does not work now")

	require.NoError(t, os.WriteFile(note, good, 0o600))
	require.False(t, tried(root))
	elsewhere := filepath.Join(t.TempDir(), "s")
	require.NoError(t, os.CopyFS(elsewhere, os.DirFS(root)))
	require.True(t, tried(elsewhere), "another directory, be it the same file system")
	require.NoError(t, os.Remove(filepath.Join(root, markName)))
	require.True(t, tried(root), "it made nothing here")
}
