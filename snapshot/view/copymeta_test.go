package view

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// What the copy driver goes by when it looks for changes has no flipped bit in it:
// a path that is another one would give a file another's content.
func TestFlippedMeta(t *testing.T) {
	l, err := openLayout(t.TempDir())
	require.NoError(t, err)
	const id = snapshot.ID("00000000000000000000000001")
	require.NoError(t, os.Mkdir(l.dir(id), 0o700))
	want := &copyMeta{target: "/some \" where/\xff", root: 7, stamps: map[uint64]stamp{8: {1_500_000_000, "a/b\n"}, 9: {-1, "c"}}}
	require.NoError(t, l.writeMeta(id, want))
	got, err := l.readMeta(id)
	require.NoError(t, err)
	require.Equal(t, want, got)

	name := filepath.Join(l.dir(id), metaName)
	good, err := os.ReadFile(name)
	require.NoError(t, err)
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(name, bad, 0o600))
		if got, err := l.readMeta(id); err == nil {
			require.Equal(t, want, got, "bit %d", bit) // the last line feed
		}
	}
	for n := range good[:len(good)-1] {
		require.NoError(t, os.WriteFile(name, good[:n], 0o600))
		_, err = l.readMeta(id)
		require.Error(t, err, "%d bytes", n)
	}
}
