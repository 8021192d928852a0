package loopdev

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

func TestAttach(t *testing.T) {
	testenv.Require(t, testenv.Root, testenv.Loop)
	dir := t.TempDir()
	path, other := filepath.Join(dir, "image"), filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()

	refused := unix.LoopConfig{Size: 3} // no size of a sector
	var taken unix.LoopConfig
	taken.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR
	_, err = Attach(f, os.O_RDONLY, refused)
	require.ErrorIs(t, err, unix.EINVAL)
	d, err := Attach(f, os.O_RDONLY, refused, taken)
	require.NoError(t, err)

	for name, is := range map[string]bool{path: true, other: false} {
		file, err := FileAt(name)
		require.NoError(t, err)
		info, err := Of(d, file)
		require.NoError(t, err)
		require.Equal(t, is, info != nil, name)
	}
	_, err = FileAt(path + "x")
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoError(t, d.Close())
	require.Empty(t, testenv.Loops(t, dir), "it goes with its last user")
}
