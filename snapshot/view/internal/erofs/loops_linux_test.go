package erofs

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/loopdev"
)

// A device is used again for its file, and for no other: its name may be somebody
// else's by now.
func TestLoopsAreAskedWhatTheyAre(t *testing.T) {
	needMount(t)
	dir := t.TempDir()
	file := func(name string) string {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 4096), 0o600))
		return filepath.Join(dir, name)
	}
	id := func(path string) loopdev.File {
		f, err := loopdev.FileAt(path)
		require.NoError(t, err)
		return f
	}
	var l Loops
	shared := func(path, holds string) *os.File {
		f, err := l.shared(path)
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		b := make([]byte, 1)
		_, err = io.ReadFull(f, b)
		require.NoError(t, err)
		require.Equal(t, holds, string(b))
		return f
	}
	a, b := file("a"), file("b")
	one := shared(a, "a")
	require.Equal(t, one.Name(), shared(a, "a").Name())
	other := shared(b, "b")
	require.NotEqual(t, one.Name(), other.Name())

	l.known[id(a)] = other.Name()
	require.NotEqual(t, other.Name(), shared(a, "a").Name())
	l.known[id(a)] = filepath.Join(dir, "no device")
	shared(a, "a")
	l.known[id(a)] = b // no device at all
	shared(a, "a")
}
