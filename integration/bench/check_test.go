//go:build bench && linux

package bench

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fidelity is how much a way keeps of times. All keep names, types, modes, sizes,
// contents and targets.
type fidelity int

const (
	exact   fidelity = iota // nanoseconds, of files and of directories
	seconds                 // of files, in seconds: tar's usual format, zip
)

// look is what was seen of a tree: one line per entry.
type look struct {
	lines []string
	files []string // paths of regular files
	bytes int64
}

// lookAt reads all of a tree.
func lookAt(t *testing.T, root string, fid fidelity) look {
	t.Helper()
	var l look
	buf := make([]byte, 1<<20)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%q %s", rel, st.Mode())
		switch {
		case st.Mode().IsRegular():
			sum, err := sumOf(path, buf)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", st.Size(), sum)
			l.files = append(l.files, rel)
			l.bytes += st.Size()
			if fid == seconds {
				line += fmt.Sprintf(" %d", st.ModTime().Unix())
			}
		case st.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		if fid == exact {
			line += fmt.Sprintf(" %d", st.ModTime().UnixNano())
		}
		l.lines = append(l.lines, line)
		return nil
	})
	require.NoError(t, err)
	return l
}

func sumOf(path string, buf []byte) (sum []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, buf)
	return h.Sum(nil), err
}

// same fails the test unless the tree at root is the one that was seen. It returns
// how long it took to read all of it.
func same(t *testing.T, want look, root string, fid fidelity) time.Duration {
	t.Helper()
	start := time.Now()
	got := lookAt(t, root, fid)
	took := time.Since(start)
	if d := difference(want.lines, got.lines); d != "" {
		require.FailNow(t, "the tree at "+root+" is not what went in", d)
	}
	return took
}

// difference shows the first few lines that one of two sorted looks lacks.
func difference(want, got []string) string {
	count := map[string]int{}
	for _, l := range want {
		count[l]++
	}
	var out []string
	for _, l := range got {
		if count[l]--; count[l] < 0 {
			out = append(out, "+ "+l)
		}
	}
	for _, l := range want {
		if count[l] > 0 {
			out = append(out, "- "+l)
		}
	}
	if len(out) > 20 {
		out = append(out[:20], fmt.Sprintf("and %d more", len(out)-20))
	}
	return strings.Join(out, "\n")
}

// TestLooks keeps the comparison honest: it must see each kind of change.
func TestLooks(t *testing.T) {
	path := ""
	for name, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(path, []byte("abd"), 0o644) },
		"mode":    func() error { return os.Chmod(path, 0o600) },
		"time":    func() error { return os.Chtimes(path, epoch, epoch.Add(time.Second)) },
		"more":    func() error { return os.Link(path, path+"2") },
		"less":    func() error { return os.Remove(path) },
	} {
		dir := t.TempDir()
		path = filepath.Join(dir, "f")
		require.NoError(t, os.WriteFile(path, []byte("abc"), 0o644))
		require.NoError(t, os.Chtimes(path, epoch, epoch))
		want := lookAt(t, dir, seconds)
		require.Empty(t, difference(want.lines, lookAt(t, dir, seconds).lines))
		require.NoError(t, change())
		if name == "content" {
			require.NoError(t, os.Chtimes(path, epoch, epoch))
		}
		require.NotEmpty(t, difference(want.lines, lookAt(t, dir, seconds).lines), name)
	}
}
