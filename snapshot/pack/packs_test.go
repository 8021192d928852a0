package pack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// A pack that is not on disk as it was written is found before anything refers to
// it, whichever bit it is.
func TestReadBack(t *testing.T) {
	dir := t.TempDir()
	f, err := durable.Create(dir)
	require.NoError(t, err)
	p := &openPack{f: f}
	content := noise(readBackBytes*2+77, 1)
	p.h = newKeyed(testKey).h
	require.NoError(t, p.write(content[:1000]))
	require.NoError(t, p.write(content[1000:]))
	name := filepath.Join(dir, "pack")
	require.NoError(t, f.Commit(name))
	buf := make([]byte, readBackBytes)
	require.NoError(t, p.readBack(name, buf))

	for _, at := range []int{0, 999, readBackBytes - 1, readBackBytes, len(content) - 1} {
		for bit := range 8 {
			content[at] ^= 1 << bit
			require.NoError(t, os.WriteFile(name, content, 0o600))
			content[at] ^= 1 << bit
			var corrupt *snapshot.CorruptError
			require.ErrorAs(t, p.readBack(name, buf), &corrupt, "bit %d of byte %d", bit, at)
		}
	}
	for _, n := range []int{0, 1, readBackBytes, len(content) - 1} {
		require.NoError(t, os.WriteFile(name, content[:n], 0o600))
		require.Error(t, p.readBack(name, buf), "%d bytes", n)
	}
	require.NoError(t, os.WriteFile(name, append(content, 0), 0o600))
	require.Error(t, p.readBack(name, buf))
	require.ErrorIs(t, p.readBack(name+"x", buf), os.ErrNotExist)
}
