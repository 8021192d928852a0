package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

func (b *bench) compare(x, y snapshot.ID) []string {
	b.t.Helper()
	var out []string
	require.NoError(b.t, b.Compare(ctxOf(b.t), x, y, func(d Difference) error {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s %s", d.Change, d.Path, strings.Join(d.What, ","))))
		return nil
	}))
	return out
}

func TestCompare(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	at := func(p string) string { return filepath.Join(dir, p) }
	for _, p := range []string{"same", "touched", "moded", "content", "gone", "type", "dir/in", "links/a", "links/x"} {
		write(t, at(p), "content of "+p)
	}
	require.NoError(t, os.Link(at("links/a"), at("links/b")))
	require.NoError(t, os.Link(at("links/a"), at("links/c")))
	require.NoError(t, os.Link(at("links/x"), at("links/y")))
	require.NoError(t, os.Symlink("one", at("symlink")))
	one := b.create(dir, "")
	require.Empty(t, b.compare(one.ID, one.ID))

	old := time.Unix(1_000_000, 0)
	require.NoError(t, os.Chtimes(at("touched"), old, old))
	require.NoError(t, os.Chmod(at("moded"), 0o755))
	write(t, at("content"), "CONTENT of content")
	require.NoError(t, os.Remove(at("gone")))
	require.NoError(t, os.Remove(at("type")))
	require.NoError(t, os.Mkdir(at("type"), 0o755))
	write(t, at("type/new"), "new")
	require.NoError(t, os.RemoveAll(at("dir")))
	require.NoError(t, os.Remove(at("symlink")))
	require.NoError(t, os.Symlink("two", at("symlink")))
	require.NoError(t, os.Remove(at("links/a"))) // b and c are still one file
	require.NoError(t, os.Remove(at("links/y"))) // x and y are two now
	write(t, at("links/y"), "content of links/x")
	fi, err := os.Stat(at("links/x"))
	require.NoError(t, err)
	require.NoError(t, os.Chtimes(at("links/y"), fi.ModTime(), fi.ModTime()))
	for _, base := range []snapshot.ID{"", one.ID} {
		two := b.create(dir, base)
		require.Equal(t, []string{
			"M  mtime", "M content content,mtime", "D dir", "D dir/in", "D gone", "M links mtime", "D links/a",
			"M links/x links", "M links/y links", "M moded mode", "M symlink mtime,target", "M touched mtime",
			"M type type", "A type/new", //nolint:dupword // a path of that name
		}, b.compare(one.ID, two.ID))
	}
	require.Equal(t, []string{"D a"}, func() []string {
		only := filepath.Join(t.TempDir(), "e")
		write(t, filepath.Join(only, "a"), "a")
		x := b.create(only, "")
		require.NoError(t, os.Remove(filepath.Join(only, "a")))
		y := b.create(only, "")
		return b.compare(x.ID, y.ID)[1:]
	}())
}

// One content can be cut at different places; and in another domain nothing but
// the bytes tells.
func TestCompareByContent(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.Mkdir(dir, 0o755))
	big := chaff(1, 6<<20)
	path := filepath.Join(dir, "big")
	old := time.Unix(1_000_000, 0)
	put := func(content []byte) {
		require.NoError(t, os.WriteFile(path, content, 0o644))
		require.NoError(t, os.Chtimes(path, old, old))
		require.NoError(t, os.Chtimes(dir, old, old))
	}
	put(big)
	first := b.create(dir, "")
	m, err := b.Tree(t.Context(), first.ID)
	require.NoError(t, err)
	// Where the base was cut is no place to cut any more by what stands before it.
	for _, c := range m.Entries[1].Chunks[10:20] {
		copy(big[c.Off-300:c.Off], chaff(uint64(c.Off), 300))
	}
	put(big)
	based := b.create(dir, first.ID)
	fresh, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: domainKey})
	require.NoError(t, err)
	m, err = b.Tree(t.Context(), based.ID)
	require.NoError(t, err)
	n, err := b.Tree(t.Context(), fresh.ID)
	require.NoError(t, err)
	require.False(t, slices.Equal(m.Entries[1].Chunks, n.Entries[1].Chunks), "that is what this test is about")
	require.Empty(t, b.compare(based.ID, fresh.ID))
	require.Equal(t, []string{"M big content"}, b.compare(first.ID, fresh.ID))

	other, err := b.Create(t.Context(), CreateSpec{Dir: dir, DomainKey: []byte("the key of another domain")})
	require.NoError(t, err)
	require.Empty(t, b.compare(based.ID, other.ID))
	big[4<<20] ^= 1
	put(big)
	changed := b.create(dir, "")
	require.Equal(t, []string{"M big content"}, b.compare(other.ID, changed.ID))
	left, err := os.ReadDir(filepath.Join(b.dir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}
