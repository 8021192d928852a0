package store

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// A file system with not one free block: layers can be evicted, and the store works on
// in the room that this makes. The row of each needs a block of its own.
func TestEvictOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 64)
	b := benchAt(t, disk+"/store", view.NameCopy)
	b.disk = disk
	var ids []snapshot.ID
	for i := range 6 {
		ids = append(ids, b.job(func(dir string) { write(t, dir+"/f", string(noise(1<<20, byte(i)))) }).ID)
		require.NoError(t, b.Reported(t.Context(), ids[i]))
	}
	only := b.job(func(dir string) { write(t, dir+"/only", "copy") })
	require.NoError(t, b.Reported(t.Context(), only.ID))
	b.packed(append([]snapshot.ID{only.ID}, ids...)...)
	for _, id := range ids {
		require.NoError(t, b.MarkDurable(t.Context(), id))
	}
	b.reopen() // the log of the database is empty now
	fill(t, disk+"/ballast")
	free := func() int64 {
		var st unix.Statfs_t
		require.NoError(t, unix.Statfs(disk, &st))
		return int64(st.Bavail) * st.Bsize
	}
	require.Less(t, free(), int64(64<<10))
	_, err := b.Prepare(t.Context(), PrepareSpec{
		ID: newID(t), Target: filepath.Join(disk, "v"), DomainKey: domainKey, Claim: make([]byte, 64<<10),
	})
	require.ErrorIs(t, err, syscall.ENOSPC)

	r, err := b.Evict(t.Context(), EvictSpec{Enough: func(int64) bool { return free() > 3<<20 }})
	require.NoError(t, err)
	require.NotEmpty(t, r.Evicted)
	require.Greater(t, free(), int64(3<<20))
	r, err = b.Evict(t.Context(), EvictSpec{})
	require.NoError(t, err)
	require.NotEmpty(t, r.Evicted)
	require.Len(t, b.List(), 1, "the only copy")
	next := b.job(func(dir string) { write(t, dir+"/g", "comes back") }, only.ID)
	b.packed(next.ID)
	b.requireTree(next.ID)
	b.reopen()
	require.NoError(t, b.Verify(t.Context(), next.ID))
	fi, err := os.Stat(b.dir + "/reserve")
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, fi.Size(), "the reserve was taken again")
}

// A repair that finds no room names the damage; when there is room it is made good.
func TestScrubOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 48)
	b := benchAt(t, disk+"/store", view.NameCopy)
	b.disk = disk
	one := b.job(func(dir string) { write(t, dir+"/f", string(noise(2<<20, 9))) })
	in := b.packed(one.ID)[0]
	want := b.requireTree(one.ID)
	for _, damage := range []string{b.packPath(in.Blobs[0].Digest), b.indexPath(in.Index), b.manifestPath(in.Manifest), b.sourceOf(one.ID, "f")} {
		flipFile(t, damage, 60)
		fill(t, disk+"/ballast")
		got, err := b.Scrub(t.Context(), ScrubOptions{})
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
		} else if got.Left() > 0 { // what is written in place needs none
			require.Contains(t, got.Damages[0].Left, "no space left", damage)
		}
		require.NoError(t, exec.Command("sh", "-c", "rm "+disk+"/ballast*").Run())
		b.reopen()
		got, err = b.Scrub(t.Context(), ScrubOptions{})
		require.NoError(t, err)
		require.Zero(t, got.Left(), "%s: %+v", damage, got.Damages)
		require.Equal(t, []State{Packed}, b.states())
		require.Equal(t, want, b.requireTree(one.ID))
	}
}
