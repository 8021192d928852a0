package store

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// A commit finds the end of SQLite's log in memory, whatever the kernel gave up meanwhile: to
// read it would take as long as all that a job has just written.
func TestLogIsKeptInMemory(t *testing.T) {
	testenv.Require(t, testenv.Root)
	b := newBench(t, view.NameCopy)
	for range 3 {
		b.job(func(dir string) { write(t, dir+"/f", "x") })
		require.NoError(t, b.record(b.redo, allOfIt))
		at := filepath.Join(b.dir, "store.db-wal")
		gone, all := resident(t, at)
		require.Empty(t, gone, "of %d pages", all)
		require.NotZero(t, all)
	}
	// Without that these are gone.
	defer b.slowDisk()() // nobody keeps it again meanwhile
	b.redo.log.close()
	gone, _ := resident(t, filepath.Join(b.dir, "store.db-wal"))
	var fs unix.Statfs_t
	require.NoError(t, unix.Statfs(b.dir, &fs))
	if fs.Type != unix.TMPFS_MAGIC { // which has its files in memory only
		require.NotEmpty(t, gone)
	}
}

// resident has the kernel give up a file, and says which of how many pages it did.
func resident(t *testing.T, path string) (gone []int, all int) {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, f.Sync())
	require.NoError(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	fi, err := f.Stat()
	require.NoError(t, err)
	mem, err := unix.Mmap(int(f.Fd()), 0, int(fi.Size()), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	defer unix.Munmap(mem) //nolint:errcheck // of a test
	in := make([]byte, (len(mem)+redoPage-1)/redoPage)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)),
		uintptr(unsafe.Pointer(unsafe.SliceData(in))))
	require.Zero(t, errno)
	for i, b := range in {
		if b&1 == 0 {
			gone = append(gone, i)
		}
	}
	return gone, len(in)
}
