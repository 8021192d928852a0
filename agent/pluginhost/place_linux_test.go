package pluginhost

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire"
)

// TestSocketsOfOneThatWasKilled: the next agent removes them, and nobody else's.
func TestSocketsOfOneThatWasKilled(t *testing.T) {
	testenv.Require(t, testenv.Root)
	t.Setenv("TMPDIR", t.TempDir())
	sockets := func(dir string) string {
		h := &Host{o: Options{Settings: plugin.Settings{Dir: dir}}, user: &wire.User{UID: 65534, GID: 65534}}
		at, err := h.makeSockets()
		require.NoError(t, err)
		require.NoError(t, os.Mkdir(filepath.Join(at, "plugin-dir"), 0o770))
		return at
	}
	killed, other := sockets("/plugins/a"), sockets("/plugins/b")
	foreign := killed + "-foreign"
	require.NoError(t, os.Mkdir(foreign, 0o700))
	require.NoError(t, os.Chown(foreign, 65534, 65534))
	again := sockets("/plugins/a")
	require.NoDirExists(t, killed)
	for _, dir := range []string{again, other, foreign} {
		require.DirExists(t, dir)
	}
	fi, err := os.Stat(again)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o711), fi.Mode().Perm())
}
