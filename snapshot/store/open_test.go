package store

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// overlayOrCopy is the best driver of this machine.
func overlayOrCopy(t testing.TB) string {
	t.Helper()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	return view.NameOverlay
}

func TestOneProcessOwnsAStore(t *testing.T) {
	b := newBench(t, view.NameCopy)
	_, err := Open(t.Context(), b.dir, b.o)
	var locked *LockedError
	require.ErrorAs(t, err, &locked)
	require.Contains(t, locked.Holder, fmt.Sprintf("pid %d (", os.Getpid()))
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "holder"), []byte("\x1b[31mred\n"), 0o600))
	_, err = Open(t.Context(), b.dir, b.o)
	require.ErrorAs(t, err, &locked)
	require.Equal(t, "[31mred", locked.Holder)
	id := b.ID()
	b.reopen()
	require.Equal(t, id, b.ID())
}

// TestLockOfTheDead: a child of a process that was killed may have its lock for a moment.
func TestLockOfTheDead(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.crash()
	left := flock.New(filepath.Join(b.dir, "lock"))
	ok, err := left.TryLock()
	require.NoError(t, err)
	require.True(t, ok)
	time.AfterFunc(lockPatience/10, func() { left.Unlock() }) //nolint:errcheck // Open tells
	b.open()
}

func TestPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "store")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	b := benchAt(t, dir, view.NameCopy)
	for _, d := range []string{"", "packs", "indexes", "manifests", "tmp", "views"} {
		fi, err := os.Stat(filepath.Join(b.dir, d))
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o700), fi.Mode().Perm(), d)
	}
}

func TestOpenRefusesWhatItDoesNotKnow(t *testing.T) {
	for name, tc := range map[string]struct {
		sql  string
		want func(t *testing.T, err error)
	}{
		"newer": {fmt.Sprintf("PRAGMA user_version=%d", schema+1), func(t *testing.T, err error) {
			require.ErrorIs(t, err, snapshot.ErrNewerFormat)
			require.ErrorContains(t, err, fmt.Sprintf("schema %d, this version of roost knows up to %d", schema+1, schema))
		}},
		"foreign": {"PRAGMA application_id=77", func(t *testing.T, err error) {
			require.ErrorContains(t, err, "not a store's database")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.crash()
			db, err := sql.Open("sqlite", filepath.Join(b.dir, "store.db"))
			require.NoError(t, err)
			_, err = db.Exec(tc.sql)
			require.NoError(t, err)
			require.NoError(t, db.Close())
			_, err = Open(t.Context(), b.dir, b.o)
			require.Error(t, err)
			tc.want(t, err)
			_, err = Open(t.Context(), b.dir, b.o)
			require.NotErrorAs(t, err, new(*LockedError), "a store that could not be opened is not held")
		})
	}
}

func TestOpenRefusesGarbage(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.crash()
	for _, f := range []string{"store.db-wal", "store.db-shm"} {
		require.NoError(t, os.RemoveAll(filepath.Join(b.dir, f)))
	}
	require.NoError(t, os.WriteFile(filepath.Join(b.dir, "store.db"), []byte("this is no database, but long enough to look at"), 0o600))
	_, err := Open(t.Context(), b.dir, b.o)
	require.Error(t, err)
}

func TestOpenSweeps(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/f", "some content") })
	b.packed(one.ID)
	b.crash()
	stray := []string{
		"tmp/tmp-123", "packs/" + snapshot.Digest{1}.String(), "indexes/" + snapshot.Digest{2}.String(),
		"manifests/" + snapshot.Digest{3}.String(), "manifests/tmp-9", "manifests/" + string(newID(t)) + ".src",
		"views/" + string(newID(t)) + "/junk",
	}
	for _, f := range stray {
		write(t, filepath.Join(b.dir, f), "left by a crash")
	}
	b.open()
	for _, f := range stray {
		_, err := os.Stat(filepath.Join(b.dir, f))
		require.ErrorIs(t, err, os.ErrNotExist, f)
	}
	require.NoError(t, b.Verify(t.Context(), one.ID))
	in, err := b.Lookup(one.ID)
	require.NoError(t, err)
	require.Len(t, in.Blobs, 2)
}

// A removal that was cut short between the row and the files is finished by Open.
func TestOpenFinishesRemovals(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) { write(t, dir+"/f", "some content") })
		b.packed(one.ID)
		require.NoError(t, b.removeRow(t.Context(), b.layers[one.ID]))
		b.reopen()
		require.Empty(t, b.List())
		require.Empty(t, b.Views())
		for _, dir := range []string{"views", "indexes", "manifests", "packs"} {
			entries, err := os.ReadDir(filepath.Join(b.dir, dir))
			require.NoError(t, err)
			require.Empty(t, entries, dir)
		}
		var n int
		require.NoError(t, b.db.QueryRow("SELECT count(*) FROM intents").Scan(&n))
		require.Zero(t, n)
	})
}

func TestCommitsAreDurable(t *testing.T) {
	b := newBench(t, view.NameCopy)
	require.NotNil(t, b.redo, "it is what makes them durable")
	for pragma, want := range map[string]string{"synchronous": "1", "journal_mode": "wal", "locking_mode": "exclusive"} {
		var got string
		require.NoError(t, b.db.QueryRow("PRAGMA "+pragma).Scan(&got))
		require.Equal(t, want, got, pragma)
	}
}

// A killed process leaves the log of the database behind; what was committed is
// read from it.
func TestOpenAfterKill(t *testing.T) {
	b := newBench(t, view.NameCopy)
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	open := b.spec(one.ID)
	_, err := b.Prepare(t.Context(), open)
	require.NoError(t, err)
	dead := filepath.Join(t.TempDir(), "store")
	require.NoError(t, os.MkdirAll(dead, 0o700))
	for _, f := range []string{"store.db", "store.db-wal"} {
		require.NoError(t, os.WriteFile(filepath.Join(dead, f), []byte(read(t, filepath.Join(b.dir, f))), 0o600))
	}
	require.NotEmpty(t, read(t, filepath.Join(dead, "store.db-wal")))
	c := benchAt(t, dead, view.NameCopy)
	views := b.Views()
	for i := range views {
		views[i].InPlace = false // its job did not outlive the process
	}
	require.ElementsMatch(t, views, c.Views())
	require.Equal(t, b.ID(), c.ID())
	in, err := c.Lookup(one.ID)
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State, "its files did not come with its row")
	require.Contains(t, in.Err, "is gone")
}
