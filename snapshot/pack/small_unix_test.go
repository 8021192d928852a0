//go:build unix

package pack

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A small file is read whole, wherever it lies, or it is said why not.
func TestSmallReader(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) where {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		return where{path: path}
	}
	files := []where{write("a/1", "one"), write("a/2", "two"), write("a/b/3", "three"), write("c", "four"), write("a/4", "five")}
	want := []string{"one", "two", "three", "four", "five"}
	for _, now := range []time.Time{time.Now(), time.Now().Add(time.Hour)} { // changed lately, and long ago
		r := newSmallReader(now)
		for i, w := range files {
			p := make([]byte, len(want[i]))
			require.NoError(t, r.read(w, p))
			require.Equal(t, want[i], string(p))
		}
		require.ErrorContains(t, r.read(files[0], make([]byte, 2)), "should have 2")
		require.ErrorContains(t, r.read(files[0], make([]byte, 4)), "should have 4")
		require.ErrorIs(t, r.read(where{path: filepath.Join(dir, "a", "none")}, make([]byte, 1)), os.ErrNotExist)
		require.ErrorIs(t, r.read(where{path: filepath.Join(dir, "none", "a")}, make([]byte, 1)), os.ErrNotExist)
		require.Error(t, r.read(where{path: filepath.Join(dir, "a")}, make([]byte, 1)), "a directory")

		part := where{path: files[2].path, at: 2}
		p := make([]byte, 3)
		require.NoError(t, r.read(part, p))
		require.Equal(t, "ree", string(p), "a part of a bundle")

		r.close()
		require.NoError(t, r.read(files[0], p), "it can be used again")
		r.close()
	}
	require.NoError(t, os.Symlink("1", filepath.Join(dir, "a", "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "a", "fifo"), 0o600))
	r := newSmallReader(time.Now())
	defer r.close()
	for _, name := range []string{"link", "fifo"} {
		require.Error(t, r.read(where{path: filepath.Join(dir, "a", name)}, make([]byte, 1)), name)
	}
}
