package store

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// smallDisk mounts a fresh ext4 of some megabytes, made with these options.
func smallDisk(t *testing.T, megabytes int, options ...string) string {
	t.Helper()
	testenv.Require(t, testenv.Loop)
	img := filepath.Join(t.TempDir(), "img")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, int64(megabytes)<<20))
	out, err := exec.Command("mkfs.ext4", slices.Concat([]string{"-q", "-F", "-m", "0"}, options, []string{img})...).CombinedOutput()
	require.NoError(t, err, string(out))
	dir := t.TempDir()
	out, err = exec.Command("mount", "-o", "loop", img, dir).CombinedOutput()
	require.NoError(t, err, string(out))
	t.Cleanup(func() {
		runtime.GC() // a driver keeps files open that only its end closes
		runtime.GC()
		out, err := exec.Command("umount", dir).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return dir
}

// fill takes all space of a disk, to the last block.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	for _, n := range []int{1 << 20, 64 << 10, 4 << 10, 512} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, n))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
	}
	require.NoError(t, f.Sync())
	// Names need blocks of their own.
	for i := 0; ; i++ {
		if err := os.WriteFile(fmt.Sprintf("%s.%d", path, i), []byte("x"), 0o600); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			return
		}
	}
}

func TestFullDisk(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		disk := smallDisk(t, 64)
		b := benchAt(t, disk+"/store", driver)
		b.disk = disk
		one := b.job(func(dir string) { write(t, dir+"/f", "precious") })
		gone := b.job(func(dir string) { write(t, dir+"/g", "can go") }, one.ID)
		b.packed(one.ID, gone.ID)
		require.NoError(t, b.MarkDurable(t.Context(), gone.ID))
		open := b.spec(one.ID)
		a, err := b.Prepare(t.Context(), open)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(a.Target+"/h", []byte("written before it was full"), 0o644))
		other := b.spec(one.ID)
		_, err = b.Prepare(t.Context(), other)
		require.NoError(t, err)
		fill(t, disk+"/ballast")

		// Nothing new can be made, and it says why.
		var failed error
		for range 2000 { // the log of the database has some room of its own
			p := b.spec(one.ID)
			if _, failed = b.Prepare(t.Context(), p); failed != nil {
				break
			}
			require.NoError(t, b.Discard(t.Context(), p.ID))
		}
		require.ErrorIs(t, failed, syscall.ENOSPC)

		// What is begun can be ended, and space can be made.
		sealed, err := b.Seal(t.Context(), open.ID, []byte("green"))
		require.NoError(t, err)
		require.Equal(t, Sealed, sealed.State)
		require.NoError(t, b.Discard(t.Context(), other.ID))
		require.NoError(t, b.Reported(t.Context(), open.ID))
		require.NoError(t, b.Remove(t.Context(), gone.ID))

		// Packing waits for space and says so.
		err = b.pack(t.Context(), b.layers[sealed.ID])
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			require.True(t, passing(err))
		}
		b.reopen()
		require.NoError(t, exec.Command("sh", "-c", "rm "+disk+"/ballast*").Run())
		b.packed(sealed.ID)
		b.requireTree(sealed.ID)
		require.NoError(t, b.Verify(t.Context(), one.ID))
		b.job(nil, sealed.ID)
	})
}

// The row itself finds no space: the reserve is given up, once, and taken again.
func TestReserve(t *testing.T) {
	disk := smallDisk(t, 32)
	b := benchAt(t, disk+"/store", view.NameCopy)
	b.disk = disk
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	fi, err := os.Stat(b.dir + "/reserve")
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, fi.Size())
	require.GreaterOrEqual(t, fi.Sys().(*syscall.Stat_t).Blocks*512, int64(1<<20), "real blocks")
	b.reopen() // the log of the database is empty now: each row needs a new block
	fill(t, disk+"/ballast")
	err = b.insertView(t.Context(), &openView{id: newID(t), claim: make([]byte, 64<<10)})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, b.Reported(t.Context(), one.ID))
	require.NoError(t, b.Drop(t.Context(), one.ID))
	require.NoError(t, exec.Command("sh", "-c", "rm "+disk+"/ballast*").Run())
	b.retakeReserve()
	fi, err = os.Stat(b.dir + "/reserve")
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, fi.Size())
}

// A store that was closed in order is opened on a disk that is full to the last block,
// tells what it has and makes room: no index of the database's log is mapped, which
// would need some.
func TestOpenOnAFullDisk(t *testing.T) {
	disk := smallDisk(t, 64)
	b := benchAt(t, disk+"/store", view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "f"), string(chaff(1, 4<<20)))
	one := b.create(dir, "")
	fill(t, disk+"/ballast")
	b.reopen()
	require.NoFileExists(t, filepath.Join(b.dir, "store.db-shm"))
	require.Len(t, b.List(), 1)
	require.NoError(t, b.Drop(t.Context(), one.ID))
	b.reopen()
	require.Empty(t, b.List())
}

// A disk that can take no further file is full, too.
func TestBeginWithoutInodes(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		disk := smallDisk(t, 64, "-N", "400")
		b := benchAt(t, disk+"/store", driver)
		b.disk = disk
		one := b.job(func(dir string) { write(t, dir+"/f", "can go") })
		b.packed(one.ID)
		require.NoError(t, b.MarkDurable(t.Context(), one.ID))
		require.NoError(t, b.Reported(t.Context(), one.ID))
		b.close()
		more := func() (err error) {
			for i := 0; err == nil; i++ {
				err = os.WriteFile(fmt.Sprintf("%s/more.%d", disk, i), nil, 0o600)
			}
			return err
		}
		require.ErrorIs(t, more(), syscall.ENOSPC)

		b.open()
		require.ErrorIs(t, more(), syscall.ENOSPC, "as if jobs went on")
		require.NoError(t, b.Drop(t.Context(), one.ID))
		require.Empty(t, b.List())
		require.NoError(t, exec.Command("sh", "-c", "rm "+disk+"/more.*").Run())
		b.retakeReserve()
		require.FileExists(t, b.dir+"/reserve-files/31")
	})
}

// A process that begins on a full disk can make room: the reserve is given up for what a
// driver tries before it is used, be it that of another boot, of which nothing is known.
func TestBeginOnAFullDisk(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		disk := smallDisk(t, 64)
		b := benchAt(t, disk+"/store", driver)
		b.disk = disk
		one := b.job(func(dir string) { write(t, dir+"/f", "precious") })
		gone := b.job(func(dir string) { write(t, dir+"/g", strings.Repeat("can go", 1<<18)) }, one.ID)
		b.packed(one.ID, gone.ID)
		require.NoError(t, b.MarkDurable(t.Context(), gone.ID))
		require.NoError(t, b.Reported(t.Context(), gone.ID))
		b.crash()
		require.NoError(t, os.RemoveAll(b.dir+"/probed"))
		fill(t, disk+"/ballast")
		name := "auto"
		if driver == view.NameOverlay { // whose layers a better one would take over
			name = driver
		}
		for range 2 {
			b.o.Driver = func(r string) (view.Driver, error) { return view.Open(name, r, view.Options{Owners: true}) }
			b.open()
			require.Equal(t, driver, b.Driver().Name())
			require.NoError(t, b.Remove(t.Context(), gone.ID))
			b.crash()
			name = driver
		}
		require.NoError(t, exec.Command("sh", "-c", "rm "+disk+"/ballast*").Run())
		b.open()
		b.requireTree(one.ID)
	})
}

// A store on a disk without inodes, or within a quota that is used up, says that: SQLite
// says of both that it can't open a file.
func TestOpenWithoutInodes(t *testing.T) {
	disk := smallDisk(t, 64)
	b := benchAt(t, disk+"/store", view.NameCopy)
	dir := filepath.Join(t.TempDir(), "d")
	write(t, filepath.Join(dir, "f"), "content")
	one := b.create(dir, "")
	b.crash()
	require.True(t, GiveReserve(b.dir))
	require.False(t, GiveReserve(b.dir), "it is gone")
	n := 0
	for err := error(nil); err == nil; n++ {
		err = os.WriteFile(fmt.Sprintf("%s/empty.%d", disk, n), nil, 0o600)
	}
	_, err := Open(t.Context(), b.dir, b.o)
	require.ErrorIs(t, err, syscall.ENOSPC)
	for i := range n {
		require.NoError(t, os.RemoveAll(fmt.Sprintf("%s/empty.%d", disk, i)))
	}
	b.open()
	require.NoError(t, b.Verify(t.Context(), one.ID))
	require.True(t, isFull(fmt.Errorf("write: %w", syscall.EDQUOT)))
}
