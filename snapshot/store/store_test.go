package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

func TestChain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) {
			write(t, dir+"/a/b/c.txt", "one")
			write(t, dir+"/big", strings.Repeat("0123456789abcdef", 400_000))
			require.NoError(t, os.Link(dir+"/a/b/c.txt", dir+"/hard"))
			require.NoError(t, os.Symlink("a/b", dir+"/soft"))
		})
		require.Equal(t, Sealed, one.State)
		require.True(t, one.Manifest.IsZero())
		d1 := b.requireTree(one.ID)

		p := b.spec(one.ID)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		require.EqualValues(t, 6_400_003, a.TreeBytes)
		require.False(t, a.Merged)
		require.Equal(t, "one", read(t, a.Target+"/a/b/c.txt"))
		require.NoError(t, os.Rename(a.Target+"/a", a.Target+"/z"))
		write(t, a.Target+"/new", "two")
		require.NoError(t, os.Remove(a.Target+"/hard"))
		two, err := b.Seal(t.Context(), p.ID, []byte("outcome"))
		require.NoError(t, err)
		require.Equal(t, one.ID, two.Base)
		d2 := b.requireTree(two.ID)
		require.NotEqual(t, d1, d2)

		got := b.packed(one.ID, two.ID)
		require.Equal(t, d1, got[0].Manifest)
		require.Equal(t, d2, got[1].Manifest)
		require.Equal(t, d2, b.requireTree(two.ID), "the tree does not change when it is hashed")
		require.True(t, got[1].Synced)
		require.EqualValues(t, 6_400_006, got[1].TreeBytes)
		require.Less(t, got[1].StoredBytes, int64(100_000), "what was renamed is not stored again")
		require.NoError(t, b.Verify(t.Context(), one.ID))
		require.NoError(t, b.Verify(t.Context(), two.ID))

		b.reopen()
		require.Equal(t, d2, b.requireTree(two.ID))
		in, err := b.Lookup(two.ID)
		require.NoError(t, err)
		require.Equal(t, got[1], in)
		require.Equal(t, []Info{got[0], got[1]}, b.List())
	})
}

func TestViewsTellWhatWasLeft(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		sealed := b.job(func(dir string) { write(t, dir+"/f", "x") })
		open := b.spec(sealed.ID)
		open.Claim = []byte("who claimed it")
		a, err := b.Prepare(t.Context(), open)
		require.NoError(t, err)
		write(t, a.Target+"/lost", "y")

		b.reopen() // the process died
		views := map[snapshot.ID]OpenView{}
		for _, v := range b.Views() {
			views[v.ID] = v
		}
		require.Equal(t, OpenView{ID: sealed.ID, Claim: []byte("claim"), Sealed: true, Outcome: []byte("green")}, views[sealed.ID])
		require.Equal(t, OpenView{ID: open.ID, Claim: []byte("who claimed it")}, views[open.ID])
		requireNoMounts(t, a.Target)

		_, err = b.Seal(t.Context(), open.ID, nil)
		require.ErrorContains(t, err, "can only be discarded")
		require.NoError(t, b.Discard(t.Context(), open.ID))
		require.NoError(t, b.Discard(t.Context(), open.ID), "twice is once")
		require.Error(t, b.Discard(t.Context(), sealed.ID))
		require.NoError(t, b.Reported(t.Context(), sealed.ID))
		require.NoError(t, b.Reported(t.Context(), sealed.ID))
		require.Empty(t, b.Views())
		_, err = os.Stat(filepath.Join(b.dir, "views", string(open.ID)))
		require.ErrorIs(t, err, os.ErrNotExist)

		b.requireTree(sealed.ID)
		b.reopen()
		require.Empty(t, b.Views())
		b.packed(sealed.ID)
	})
}

func TestUnsyncedIsSuspectAfterReboot(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		safe := b.job(func(dir string) { write(t, dir+"/f", "x") })
		b.packed(safe.ID)
		lost := b.job(func(dir string) { write(t, dir+"/g", "y") }, safe.ID)
		above := b.job(func(dir string) { write(t, dir+"/h", "z") }, lost.ID)

		b.crash()
		b.o.BootID = "boot-2"
		b.open()
		for _, id := range []snapshot.ID{lost.ID, above.ID} {
			in, err := b.Lookup(id)
			require.NoError(t, err)
			require.Equal(t, Suspect, in.State)
			require.NotEmpty(t, in.Err)
			_, err = b.Prepare(t.Context(), b.spec(id))
			require.ErrorIs(t, err, snapshot.ErrNotFound)
			_, err = b.Mount(t.Context(), id, t.TempDir())
			require.ErrorIs(t, err, snapshot.ErrNotFound)
			_, err = b.Tree(t.Context(), id)
			require.ErrorIs(t, err, snapshot.ErrNotFound)
			_, err = b.Packed(t.Context(), id)
			require.ErrorIs(t, err, snapshot.ErrNotFound)
		}
		b.requireTree(safe.ID)
		b.job(nil, safe.ID)
		require.NoError(t, b.Remove(t.Context(), above.ID))
		require.NoError(t, b.Remove(t.Context(), lost.ID))
		_, err := b.Lookup(lost.ID)
		require.ErrorIs(t, err, snapshot.ErrNotFound)
	})
}

func TestBusyViewIsNotSealed(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	p := b.spec()
	a, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	f, err := os.Create(a.Target + "/open")
	require.NoError(t, err)
	_, err = b.Seal(t.Context(), p.ID, nil)
	require.ErrorIs(t, err, snapshot.ErrBusy)
	_, err = b.Lookup(p.ID)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	_, err = f.WriteString("still writable")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	in, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	again, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	require.Equal(t, in.ID, again.ID)
	m, err := b.Tree(t.Context(), p.ID)
	require.NoError(t, err)
	e, ok := m.Find("open")
	require.True(t, ok)
	require.EqualValues(t, 14, e.Size)
}

func TestPrepareRefuses(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) { write(t, dir+"/f", "x") })

		unknown := newID(t)
		_, err := b.Prepare(t.Context(), b.spec(unknown))
		var missing *MissingError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []snapshot.ID{unknown}, missing.IDs)
		require.ErrorIs(t, err, snapshot.ErrNotFound)
		require.Equal(t, []snapshot.ID{unknown}, b.Needs(b.spec(one.ID, unknown)))

		p := b.spec(one.ID)
		p.DomainKey = []byte("another")
		_, err = b.Prepare(t.Context(), p)
		require.ErrorContains(t, err, "another domain")

		p = b.spec(one.ID)
		p.ID = one.ID
		_, err = b.Prepare(t.Context(), p)
		require.ErrorContains(t, err, "already")

		p = b.spec(one.ID)
		p.ID = "../../etc"
		_, err = b.Prepare(t.Context(), p)
		require.ErrorIs(t, err, snapshot.ErrBadID)

		p = b.spec(one.ID)
		write(t, p.Target+"/full", "x")
		_, err = b.Prepare(t.Context(), p)
		require.Error(t, err, "the target is not empty")

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = b.Prepare(ctx, b.spec(one.ID))
		require.ErrorIs(t, err, context.Canceled)

		require.Empty(t, openOnly(b.Views()), "a view that could not be made is gone")
		require.Empty(t, b.busy)
		entries, err := os.ReadDir(filepath.Join(b.dir, "views"))
		require.NoError(t, err)
		require.Len(t, entries, 1)

		b.packed(one.ID)
		p = b.spec(one.ID)
		p.Inputs[0].Manifest = snapshot.Digest{1}
		_, err = b.Prepare(t.Context(), p)
		var corrupt *snapshot.CorruptError
		require.ErrorAs(t, err, &corrupt)
	})
}

func openOnly(views []OpenView) (out []OpenView) {
	for _, v := range views {
		if !v.Sealed {
			out = append(out, v)
		}
	}
	return out
}

func TestRemove(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		one := b.job(func(dir string) { write(t, dir+"/f", "x") })
		two := b.job(func(dir string) { write(t, dir+"/g", "y") }, one.ID)
		b.packed(one.ID, two.ID)

		require.ErrorIs(t, b.Remove(t.Context(), two.ID), ErrOnlyCopy)
		require.ErrorIs(t, b.Drop(t.Context(), one.ID), snapshot.ErrBusy)
		require.NoError(t, b.MarkDurable(t.Context(), two.ID))
		p := b.spec(two.ID)
		_, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		require.ErrorIs(t, b.Remove(t.Context(), two.ID), snapshot.ErrBusy)
		require.NoError(t, b.Discard(t.Context(), p.ID))

		target := t.TempDir()
		c, err := b.Mount(t.Context(), two.ID, target)
		require.NoError(t, err)
		require.ErrorIs(t, b.Remove(t.Context(), two.ID), snapshot.ErrBusy)
		require.NoError(t, c.Close())

		require.NoError(t, b.Remove(t.Context(), two.ID))
		require.NoError(t, b.Remove(t.Context(), two.ID), "twice is once")
		require.NoError(t, b.Drop(t.Context(), one.ID))
		require.Empty(t, b.List())
		b.reopen()
		require.Empty(t, b.List())
		for _, dir := range []string{"views", "indexes", "manifests", "packs"} {
			entries, err := os.ReadDir(filepath.Join(b.dir, dir))
			require.NoError(t, err)
			require.Empty(t, entries, dir)
		}
	})
}

func TestDurableLetsGoOfPacks(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	text := strings.Repeat("some text that is packed\n", 1000)
	one := b.job(func(dir string) { write(t, dir+"/f", text) })
	two := b.job(func(dir string) { write(t, dir+"/copy", text) }, one.ID)
	b.run()
	b.packed(one.ID, two.ID)
	in, err := b.Lookup(two.ID)
	require.NoError(t, err)
	require.Len(t, in.Blobs, 2, "it uses its parent's pack again")
	shared := in.Blobs[0].Digest

	require.Error(t, b.MarkDurable(t.Context(), newID(t)))
	require.NoError(t, b.MarkDurable(t.Context(), one.ID))
	f, _, err := b.OpenBlob(t.Context(), shared)
	require.NoError(t, err, "the child is not uploaded yet")
	require.NoError(t, f.Close())
	require.NoError(t, b.MarkDurable(t.Context(), two.ID))
	require.Eventually(t, func() bool {
		_, _, err := b.OpenBlob(t.Context(), shared)
		return errors.Is(err, snapshot.ErrNotFound)
	}, waitMost, tick)
	in, err = b.Lookup(two.ID)
	require.NoError(t, err)
	require.Equal(t, Durable, in.State)
	require.Len(t, in.Blobs, 1, "the index stays")
	require.NoError(t, b.Verify(t.Context(), two.ID))
	b.reopen()
	entries, err := os.ReadDir(filepath.Join(b.dir, "packs"))
	require.NoError(t, err)
	require.Empty(t, entries)
	three := b.job(func(dir string) { write(t, dir+"/third", text) }, two.ID)
	got := b.packed(three.ID)
	require.Len(t, got[0].Blobs, 1, "the chunk is known to be elsewhere")
}

func TestChangesAreTold(t *testing.T) {
	b := &bench{t: t, dir: filepath.Join(t.TempDir(), "store"), driver: overlayOrCopy(t)}
	told := make(chan Info, 100)
	n := benchAt(t, b.dir, b.driver)
	n.crash()
	n.o.OnChange = func(in Info) { told <- in }
	n.open()
	one := n.job(func(dir string) { write(t, dir+"/f", "x") })
	n.packed(one.ID)
	require.NoError(t, n.MarkDurable(t.Context(), one.ID))
	var got []string
	for len(told) > 0 {
		in := <-told
		require.Equal(t, one.ID, in.ID)
		s := string(in.State)
		if in.Synced && in.State == Sealed {
			s = "synced"
		}
		if in.State == Packed {
			require.NotEmpty(t, in.Blobs)
		}
		got = append(got, s)
	}
	require.Equal(t, []string{"sealed", "synced", "packed", "durable"}, got)
}

func TestUrgentIsPackedFirst(t *testing.T) {
	var order []snapshot.ID
	b := newBench(t, overlayOrCopy(t))
	b.crash()
	b.o.OnChange = func(in Info) {
		if in.State == Packed {
			order = append(order, in.ID) // by the packer alone
		}
	}
	b.open()
	var lone []snapshot.ID
	for range 3 {
		lone = append(lone, b.job(func(dir string) { write(t, dir+"/f", "x") }).ID)
	}
	base := b.job(func(dir string) { write(t, dir+"/f", "x") }).ID
	top := b.job(func(dir string) { write(t, dir+"/g", "x") }, base).ID
	// All are synced before any is packed.
	for _, in := range b.List() {
		b.sync(t.Context(), b.layers[in.ID])
	}
	b.First(top, newID(t))
	b.run()
	b.packed(top)
	b.packed(lone...)
	b.crash()
	require.Equal(t, append([]snapshot.ID{base, top}, lone...), order)
}

// A job's layer can turn out to be of no use just when it is being packed.
func TestDropWaitsForPacking(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	b.mu.Lock()
	b.packing = one.ID
	b.mu.Unlock()
	require.ErrorIs(t, b.Remove(t.Context(), one.ID), snapshot.ErrBusy)
	done := make(chan error, 1)
	go func() { done <- b.Drop(t.Context(), one.ID) }()
	select {
	case err := <-done:
		require.Fail(t, "dropped while it is being packed", "%v", err)
	case <-time.After(20 * time.Millisecond):
	}
	b.Store.packed()
	require.NoError(t, <-done)
	require.Empty(t, b.List())
}
