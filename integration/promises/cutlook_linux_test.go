package promises

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// look mounts the disk, opens the store, and checks everything.
func (c *cutting) look() {
	c.t.Helper()
	t, ctx := c.t, context.Background()
	p := c.on()
	require.NoError(t, c.a.reload())
	o := options(c.driver)
	o.BootID = fmt.Sprint("boot-", c.boots)
	root := filepath.Join(c.disk(), "store")
	s, err := store.Open(ctx, root, o)
	require.NoError(t, err, "the store does not open")
	closed := false
	defer func() {
		if !closed {
			s.Close() // the first failure is the one to tell
		}
	}()
	endViews(t, s)
	held := map[snapshot.ID]bool{}
	for _, in := range s.List() {
		if !in.State.Usable() {
			require.False(t, c.acked[in.ID], "%s was promised and is %s after a power cut: %s", in.ID, in.State, in.Err)
			c.refused(s, in.ID)
			continue
		}
		held[in.ID] = true
		c.maybe[in.ID] = false
		c.exact(s, &in)
	}
	for id, promised := range c.acked {
		require.True(t, held[id] || !promised, "%s was promised and is gone after a power cut; the last process said\n%s", id, c.lately)
	}
	for id, gone := range c.maybe {
		if gone {
			c.doubtful[id] = true
		}
	}
	for _, in := range slices.Backward(s.List()) {
		if !in.State.Usable() {
			require.NoError(t, s.Drop(ctx, in.ID))
		}
	}
	c.backs()
	c.acked, c.maybe = held, map[snapshot.ID]bool{}
	clear(c.going)
	closed = true
	require.NoError(t, s.Close())
	c.clean(root, held)
	p.end(false)
}

// refused checks that what is in doubt is shown to nobody.
func (c *cutting) refused(s *store.Store, id snapshot.ID) {
	ctx, at := context.Background(), filepath.Join(c.dir, "seen")
	require.NoError(c.t, os.MkdirAll(at, 0o755))
	_, err := s.Mount(ctx, id, at)
	require.ErrorIs(c.t, err, snapshot.ErrNotFound)
	_, err = s.Prepare(ctx, store.PrepareSpec{
		ID: newID(c.t), Target: filepath.Join(c.dir, "seen"), DomainKey: domainKey, Inputs: []store.Input{{Snapshot: id}},
	})
	require.ErrorIs(c.t, err, snapshot.ErrNotFound)
	c.doubtful[id] = true
}

// backs checks the directories that were restored.
func (c *cutting) backs() {
	t, plain := c.t, filepath.Join(c.dir, "plain")
	for id := range c.restored {
		seed, known := c.created[id]
		if !known {
			continue
		}
		require.NoError(t, os.Mkdir(plain, 0o755))
		require.NoError(t, garden(plain, seed, createSteps, true))
		diff, err := treecheck.Compare(plain, filepath.Join(c.disk(), "back-"+string(id)))
		require.NoError(t, err)
		require.Empty(t, diff, "a restore that had ended before the power cut")
		require.NoError(t, os.RemoveAll(plain))
	}
	clear(c.restored)
	for _, pattern := range []string{"back-*", "gone-*"} {
		found, err := filepath.Glob(filepath.Join(c.disk(), pattern))
		require.NoError(t, err)
		for _, d := range found {
			require.NoError(t, os.RemoveAll(d))
		}
	}
}
