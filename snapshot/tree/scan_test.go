package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

func TestScanPlain(t *testing.T) {
	root := t.TempDir()
	must := require.New(t)
	must.NoError(os.MkdirAll(filepath.Join(root, "a/b"), 0o755))
	must.NoError(os.WriteFile(filepath.Join(root, "a/b/f"), []byte("hello"), 0o644))
	must.NoError(os.WriteFile(filepath.Join(root, "a-b"), nil, 0o600))
	must.NoError(os.WriteFile(filepath.Join(root, "a.b"), []byte("x"), 0o755))
	must.NoError(os.Symlink("nowhere/../x", filepath.Join(root, "a/l")))
	when := time.Unix(1234567890, 123456789)
	must.NoError(os.Chtimes(filepath.Join(root, "a/b/f"), when, when))
	must.NoError(os.Chtimes(filepath.Join(root, "a/b"), when, when))

	m, err := Scan(t.Context(), root, ScanOptions{})
	must.NoError(err)
	must.NoError(Validate(m))
	must.Equal([]string{"", "a", "a/b", "a/b/f", "a/l", "a-b", "a.b"}, paths(m))
	f, ok := m.Find("a/b/f")
	must.True(ok)
	must.Equal(snapshot.Entry{
		Path: "a/b/f", Type: snapshot.TypeFile, Mode: 0o644, MTime: when.UnixNano(), Size: 5,
		Source: filepath.Join(root, "a/b/f"),
	}, *f)
	d, _ := m.Find("a/b")
	must.Equal(when.UnixNano(), d.MTime)
	must.Equal(snapshot.TypeDir, d.Type)
	l, _ := m.Find("a/l")
	must.Equal("nowhere/../x", l.Target)
	must.Empty(l.Source)
	top, _ := m.Find("")
	must.Equal(snapshot.TypeDir, top.Type)
}

func TestScanErrors(t *testing.T) {
	root := t.TempDir()
	_, err := Scan(t.Context(), filepath.Join(root, "absent"), ScanOptions{})
	require.ErrorIs(t, err, os.ErrNotExist)
	file := filepath.Join(root, "f")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err = Scan(t.Context(), file, ScanOptions{})
	require.Error(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Scan(ctx, root, ScanOptions{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestWalkAgreesWithScan(t *testing.T) {
	root := t.TempDir()
	fillTree(t, root, 3, 4)
	m, err := Scan(t.Context(), root, ScanOptions{Owners: true})
	require.NoError(t, err)
	i := 0
	err = Walk(t.Context(), root, ScanOptions{Owners: true}, func(it *Item) error {
		require.Equal(t, m.Entries[i], it.Entry)
		e, ino, _, err := Lstat(root, it.Entry.Path, ScanOptions{Owners: true})
		require.NoError(t, err)
		require.Equal(t, it.Entry, e)
		require.Equal(t, it.Inode, ino)
		i++
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, len(m.Entries), i)

	enough := errors.New("enough")
	require.Equal(t, enough, Walk(t.Context(), root, ScanOptions{}, func(*Item) error { return enough }))
}

func TestLstatRefusesToLeave(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "in"), 0o755))
	require.NoError(t, os.Symlink("/", filepath.Join(root, "in/out")))
	for _, rel := range []string{"..", "in/..", "in/../..", "/etc", "in/out/etc", "in//x", "in/.", "in/"} {
		_, _, _, err := Lstat(root, rel, ScanOptions{})
		require.Error(t, err, rel)
	}
	e, _, _, err := Lstat(root, "in/out", ScanOptions{})
	require.NoError(t, err)
	require.Equal(t, snapshot.TypeSymlink, e.Type)
}

// fillTree makes wide directories of wide files each, depth levels deep.
func fillTree(t testing.TB, root string, depth, wide int) {
	t.Helper()
	for i := range wide {
		p := filepath.Join(root, fmt.Sprintf("file%02d.txt", i))
		require.NoError(t, os.WriteFile(p, []byte(strings.Repeat("x", i)), 0o644))
		if depth > 0 {
			d := filepath.Join(root, fmt.Sprintf("dir%02d", i))
			require.NoError(t, os.Mkdir(d, 0o755))
			fillTree(t, d, depth-1, wide)
		}
	}
}

func paths(m *snapshot.Manifest) []string {
	var out []string
	for _, e := range m.Entries {
		out = append(out, e.Path)
	}
	return out
}

func BenchmarkScan(b *testing.B) {
	root := b.TempDir()
	for d := range 1000 {
		dir := filepath.Join(root, fmt.Sprintf("d%02d/some-package-%03d", d%50, d))
		require.NoError(b, os.MkdirAll(dir, 0o755))
		for f := range 100 {
			require.NoError(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-%d.js", f)), nil, 0o644))
		}
	}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		m, err := Scan(b.Context(), root, ScanOptions{Owners: true})
		require.NoError(b, err)
		n = len(m.Entries)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}
