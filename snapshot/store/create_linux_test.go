package store

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// scanned is what is in a directory, without where.
func scanned(t testing.TB, dir string) *snapshot.Manifest {
	t.Helper()
	m, err := tree.Scan(t.Context(), dir, tree.ScanOptions{Owners: root()})
	require.NoError(t, err)
	for i := range m.Entries {
		m.Entries[i].Source = ""
	}
	return m
}

func (b *bench) create(dir string, base snapshot.ID) *Created {
	b.t.Helper()
	c, err := b.Create(ctxOf(b.t), CreateSpec{Dir: dir, Base: base, DomainKey: domainKey})
	require.NoError(b.t, err)
	require.True(b.t, c.StoredOnly)
	return c
}

// back restores a snapshot and compares it with what it was made of.
func (b *bench) back(id snapshot.ID, dir string) {
	b.t.Helper()
	to := filepath.Join(b.t.TempDir(), "back")
	_, err := b.Restore(ctxOf(b.t), RestoreSpec{Snapshot: id, Dir: to})
	require.NoError(b.t, err)
	require.Equal(b.t, scanned(b.t, dir), scanned(b.t, to))
	left, err := filepath.Glob(to + ".*")
	require.NoError(b.t, err)
	require.Empty(b.t, left)
}

func TestCreateAndRestore(t *testing.T) {
	testenv.Require(t, testenv.Linux)
	b := newBench(t, view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/x"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/b/big"), make([]byte, 3<<20), 0o600))
	require.NoError(t, os.Link(filepath.Join(dir, "a/x"), filepath.Join(dir, "z")))
	one := b.create(dir, "")
	require.Equal(t, int64(6), one.Entries)
	b.back(one.ID, dir)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/new"), []byte("new"), 0o600))
	two := b.create(dir, one.ID)
	require.Equal(t, int64(3), two.New)
	b.back(two.ID, dir)
	b.reopen()
	b.back(two.ID, dir)
	require.NoError(t, b.Verify(t.Context(), two.ID))
	require.ErrorIs(t, b.Drop(t.Context(), one.ID), snapshot.ErrBusy)
	require.NoError(t, b.Drop(t.Context(), two.ID))
	require.NoError(t, os.Remove(filepath.Join(dir, "a/new")))
	m, err := b.Tree(t.Context(), one.ID)
	require.NoError(t, err)
	at := time.Unix(0, m.Entries[1].MTime)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "a"), at, at))
	b.back(one.ID, dir)
}
