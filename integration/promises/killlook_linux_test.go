package promises

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// look opens the store and checks everything.
func (k *killing) look() {
	k.t.Helper()
	t, ctx := k.t, context.Background()
	require.NoError(t, k.a.reload())
	s, err := store.Open(ctx, filepath.Join(k.dir, "store"), options(k.driver))
	require.NoError(t, err, "the store does not open")
	closed := false
	defer func() {
		if !closed {
			s.Close() // the first failure is the one to tell
		}
	}()
	require.Empty(t, leftovers(t, k.dir))
	endViews(t, s)
	held := map[snapshot.ID]bool{}
	for _, in := range s.List() {
		held[in.ID] = true
		require.True(t, in.State.Usable(), "%s: %s %s", in.ID, in.State, in.Err)
		k.exact(s, &in)
	}
	for id := range k.acked {
		require.True(t, held[id], "acknowledged layer %s is lost", id)
	}
	// What was under way is settled now, this way or that.
	k.acked, k.maybe = held, map[snapshot.ID]bool{}
	for id := range k.packed {
		if !held[id] {
			delete(k.packed, id)
		}
	}
	closed = true
	require.NoError(t, s.Close())
	k.clean(filepath.Join(k.dir, "store"), held)
}

// exact checks all that there is of a layer.
func (k *killing) exact(s *store.Store, in *store.Info) {
	if k.packed[in.ID] {
		require.NotEqual(k.t, store.Sealed, in.State, "%s was packed", in.ID)
	}
	if !in.Index.IsZero() {
		require.NoError(k.t, s.Verify(context.Background(), in.ID))
	}
	if k.a.jobs[in.ID] == nil {
		k.restores(s, in.ID)
	} else {
		k.shows(s, in.ID)
	}
	k.looked++
}

// endViews ends what an earlier process had open, as an agent does.
func endViews(t *testing.T, s *store.Store) {
	t.Helper()
	for _, v := range s.Views() {
		if v.Sealed {
			require.NoError(t, s.Reported(context.Background(), v.ID))
		} else {
			require.NoError(t, s.Discard(context.Background(), v.ID))
		}
	}
}

// shows mounts a layer and compares it with what its job did.
func (k *killing) shows(s *store.Store, id snapshot.ID) {
	at := filepath.Join(k.dir, "seen")
	require.NoError(k.t, os.MkdirAll(at, 0o755))
	c, err := s.Mount(context.Background(), id, at)
	require.NoError(k.t, err)
	diff := k.a.compare(id, at)
	require.NoError(k.t, c.Close())
	require.NoError(k.t, diff)
}

// restores checks what a killed restore left of a snapshot of a directory, and
// restores it. Of one whose creation was not acknowledged it is not known what it
// has to be.
func (k *killing) restores(s *store.Store, id snapshot.ID) {
	t := k.t
	seed, known := k.created[id]
	back, plain := filepath.Join(k.dir, "back-"+string(id)), filepath.Join(k.dir, "plain")
	same := func() {
		diff, err := treecheck.Compare(plain, back)
		require.NoError(t, err)
		require.Empty(t, diff)
	}
	if known {
		require.NoError(t, os.Mkdir(plain, 0o755))
		require.NoError(t, garden(plain, seed, createSteps, true))
		defer os.RemoveAll(plain)
		if _, err := os.Lstat(back); err == nil {
			same() // the restore was killed behind its end
		}
	}
	require.NoError(t, os.RemoveAll(back))
	_, err := s.Restore(context.Background(), store.RestoreSpec{Snapshot: id, Dir: back})
	require.NoError(t, err)
	if known {
		same()
	}
	require.NoError(t, os.RemoveAll(back))
	left, err := filepath.Glob(back + "*")
	require.NoError(t, err)
	require.Empty(t, left, "left of a restore")
}

// clean looks for files that belong to nothing.
func (k *killing) clean(root string, held map[snapshot.ID]bool) {
	views, err := os.ReadDir(filepath.Join(root, "views"))
	require.NoError(k.t, err)
	for _, v := range views {
		require.True(k.t, held[snapshot.ID(v.Name())], "views/%s belongs to no layer", v.Name())
	}
	for _, d := range []string{"tmp", "trash"} {
		left, err := os.ReadDir(filepath.Join(root, d))
		require.NoError(k.t, err)
		require.Empty(k.t, left, d)
	}
	require.Empty(k.t, leftovers(k.t, filepath.Dir(root)+"/"))
}

// wipe looks, then removes everything: of a store that has been through a lot that
// must work as of a new one.
func (k *killing) wipe() {
	k.look()
	t, ctx := k.t, context.Background()
	s, err := store.Open(ctx, filepath.Join(k.dir, "store"), options(k.driver))
	require.NoError(t, err)
	for list := s.List(); len(list) > 0; list = s.List() {
		for _, in := range slices.Backward(list) {
			if err := s.Drop(ctx, in.ID); !errors.Is(err, snapshot.ErrBusy) {
				require.NoError(t, err)
			}
		}
		require.Less(t, len(s.List()), len(list), "nothing can be removed")
	}
	require.NoError(t, s.Close())
	k.clean(filepath.Join(k.dir, "store"), map[snapshot.ID]bool{})
	require.Zero(t, intents(t, filepath.Join(k.dir, "store")), "removals that nobody finishes")
	for _, d := range []string{"indexes", "manifests"} { // packs go between two packings, or at the next start
		left, err := os.ReadDir(filepath.Join(k.dir, "store", d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
	require.NoError(t, os.RemoveAll(k.a.dir))
	require.NoError(t, os.RemoveAll(filepath.Join(k.dir, "far")))
	for _, pattern := range []string{"src-*", "back-*", "gone-*"} { // of snapshots that were removed since
		found, err := filepath.Glob(filepath.Join(k.dir, pattern))
		require.NoError(t, err)
		for _, d := range found {
			require.NoError(t, os.RemoveAll(d))
		}
	}
	clear(k.created)
	k.a.jobs = map[snapshot.ID]*job{}
	k.acked, k.packed, k.maybe = map[snapshot.ID]bool{}, map[snapshot.ID]bool{}, map[snapshot.ID]bool{}
}

// intents counts the removals that were begun and not ended.
func intents(t testing.TB, dir string) (n int) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "store.db"))
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM intents").Scan(&n))
	return n
}
