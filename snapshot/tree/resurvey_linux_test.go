package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// differ returns what Resurvey finds to be other than m and ids say.
func differ(t *testing.T, root string, m *snapshot.Manifest, ids []Inode) (paths []string) {
	t.Helper()
	same, err := Resurvey(t.Context(), root, ScanOptions{Owners: true}, len(ids), func(fn func(*snapshot.Entry, Inode) error) error {
		for i := range m.Entries {
			if err := fn(&m.Entries[i], ids[i]); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, same, len(m.Entries))
	for i, ok := range same {
		if !ok {
			paths = append(paths, m.Entries[i].Path)
		}
	}
	return paths
}

func TestResurveyTellsWhatIsNotAsItWas(t *testing.T) {
	testenv.Require(t, testenv.Root)
	for _, c := range []struct {
		name   string
		change func(at func(string) string) error
		differ []string
	}{
		{"nothing", func(func(string) string) error { return nil }, nil},
		{"content of the same size and time", func(at func(string) string) error {
			fi, err := os.Stat(at("d/f"))
			return errors.Join(err, os.WriteFile(at("d/f"), []byte("F"), 0o600), os.Chtimes(at("d/f"), fi.ModTime(), fi.ModTime()))
		}, []string{"d/f"}},
		{"another inode", func(at func(string) string) error {
			return errors.Join(os.WriteFile(at("d/x"), []byte("f"), 0o644), os.Rename(at("d/x"), at("d/f")))
		}, []string{"d", "d/f"}},
		{"mode", func(at func(string) string) error { return os.Chmod(at("d/e"), 0o700) }, []string{"d/e"}},
		{"owner", func(at func(string) string) error { return os.Lchown(at("link"), 5, 5) }, []string{"link"}},
		{"attribute", func(at func(string) string) error { return unix.Setxattr(at("fifo"), "trusted.x", []byte("1"), 0) }, []string{"fifo"}},
		{"attribute of a directory", func(at func(string) string) error { return unix.Setxattr(at("d"), "user.x", []byte("1"), 0) }, []string{"d"}},
		{"target", func(at func(string) string) error {
			return errors.Join(os.Remove(at("link")), os.Symlink("there", at("link")))
		}, []string{"", "link"}},
		{"a new name", func(at func(string) string) error { return os.WriteFile(at("d/e/new"), nil, 0o644) }, []string{"d/e"}},
		{"a name less", func(at func(string) string) error { return os.Remove(at("d/e/g")) }, []string{"d/e", "d/e/g"}},
		{"another name of a file", func(at func(string) string) error { return os.Link(at("d/f"), at("h")) }, []string{"", "d/f"}},
		{"a directory less", func(at func(string) string) error { return os.Rename(at("d"), at("dd")) }, []string{"", "d", "d/e", "d/e/g", "d/f"}},
		{"a directory that is a symlink now", func(at func(string) string) error {
			return errors.Join(os.Rename(at("d"), at("dd")), os.Symlink("dd", at("d")))
		}, []string{"", "d", "d/e", "d/e/g", "d/f"}},
		{"a directory that is a file now", func(at func(string) string) error {
			return errors.Join(os.Rename(at("d"), at("dd")), os.WriteFile(at("d"), nil, 0o600))
		}, []string{"", "d", "d/e", "d/e/g", "d/f"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			at := func(p string) string { return filepath.Join(root, p) }
			require.NoError(t, os.MkdirAll(at("d/e"), 0o755))
			require.NoError(t, os.WriteFile(at("d/f"), []byte("f"), 0o644))
			require.NoError(t, os.WriteFile(at("d/e/g"), []byte("g"), 0o644))
			require.NoError(t, os.Symlink("here", at("link")))
			require.NoError(t, unix.Mkfifo(at("fifo"), 0o644))
			m, ids := surveyed(t, root)
			time.Sleep(20 * time.Millisecond) // so that ctimes tell
			require.NoError(t, c.change(at))
			require.ElementsMatch(t, c.differ, differ(t, root, m, ids))
		})
	}
}

// surveyed is what Each finds.
func surveyed(t *testing.T, root string) (*snapshot.Manifest, []Inode) {
	m, ids := &snapshot.Manifest{}, []Inode(nil)
	firsts, err := Each(t.Context(), root, ScanOptions{Owners: true}, func(e *snapshot.Entry, in *Inode) error {
		m.Entries, ids = append(m.Entries, *e), append(ids, *in)
		return nil
	})
	require.NoError(t, err)
	for _, i := range firsts {
		m.Entries[i].Link = m.Entries[i].Path
	}
	return m, ids
}

func TestResurveyOfManyInOneDirectory(t *testing.T) {
	testenv.Require(t, testenv.Root)
	root := t.TempDir()
	for i := range 10 {
		require.NoError(t, os.MkdirAll(filepath.Join(root, string(rune('a'+i)), "x", "y.d"), 0o755))
	}
	m, ids := surveyed(t, root)
	require.Empty(t, differ(t, root, m, ids))
	ids[7].CTime = 0
	require.Equal(t, []string{m.Entries[7].Path}, differ(t, root, m, ids), "nothing is known of it")
	for i := range ids {
		ids[i].Dev++
	}
	require.Len(t, differ(t, root, m, ids), len(ids))

	wide := t.TempDir()
	for i := range 2*mostItems + 3 {
		require.NoError(t, os.WriteFile(filepath.Join(wide, "f"+string(rune(0x4e00+i))), nil, 0o600))
	}
	require.NoError(t, os.Mkdir(filepath.Join(wide, "z"), 0o700))
	m, ids = surveyed(t, wide)
	require.Empty(t, differ(t, wide, m, ids))
	time.Sleep(20 * time.Millisecond)
	last := m.Entries[2*mostItems+3]
	require.NoError(t, os.Chmod(last.Source, 0o640))
	require.Equal(t, []string{last.Path}, differ(t, wide, m, ids))
}

func TestResurveyEnds(t *testing.T) {
	_, err := Resurvey(t.Context(), filepath.Join(t.TempDir(), "gone"), ScanOptions{}, 1, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	stop := errors.New("enough")
	_, err = Resurvey(t.Context(), t.TempDir(), ScanOptions{}, 1, func(func(*snapshot.Entry, Inode) error) error { return stop })
	require.ErrorIs(t, err, stop)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Resurvey(ctx, t.TempDir(), ScanOptions{}, 1, func(func(*snapshot.Entry, Inode) error) error { return nil })
	require.ErrorIs(t, err, context.Canceled)
}
