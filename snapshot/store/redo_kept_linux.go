package store

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// keptBytes is how much of SQLite's log is kept in memory at most. A store's log has a
// few MB until it is written back (checkpointAfter), and a large transaction at times.
const keptBytes = 64 << 20

// keptLog keeps what there is of SQLite's log in memory. Its frames are no whole pages, so that a
// commit begins in the middle of the page with which the one before ended. If the kernel has given
// that one up meanwhile, as it does while a job writes gigabytes, it must be read before it can be written
// to, and the read waits until the disk has come to it, behind all that the job wrote: 10 to
// 80 ms, in which nobody gets an answer. Without it (it may not lock memory, or not so much) all works,
// only slower then. Nothing is ever read or written through it.
type keptLog struct {
	path string
	mem  []byte // the mapping, nil if there is none
	ino  uint64 // of the file that is mapped
	to   int64  // what is before is in memory
}

// keep takes in what the log grew by. It reads what is not in memory, so nobody whom somebody
// waits for calls it.
func (k *keptLog) keep() {
	var st unix.Stat_t
	if unix.Stat(k.path, &st) != nil {
		return // there will be one with the first commit
	}
	if k.mem == nil || st.Ino != k.ino {
		if k.ino == st.Ino && k.ino != 0 {
			return // it could not be had before
		}
		k.remap(st.Ino)
	}
	size := min(st.Size, int64(len(k.mem)))
	from := min(k.to, size) / redoPage * redoPage // the last page may have been the end of a shorter log
	if size > from {
		unix.Madvise(k.mem[from:(size+redoPage-1)/redoPage*redoPage], unix.MADV_POPULATE_READ) //nolint:errcheck // it is a matter of time only
	}
	k.to = size
}

// remap maps the log as it is called now: SQLite makes a new one with a new connection.
func (k *keptLog) remap(ino uint64) {
	k.close()
	k.ino = ino
	f, err := os.Open(k.path)
	if err != nil {
		return
	}
	defer f.Close() //nolint:errcheck // the mapping stays; SQLite has no lock on this file that this would end
	mem, err := unix.Mmap(int(f.Fd()), 0, keptBytes, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return
	}
	_, _, errno := unix.Syscall(unix.SYS_MLOCK2, uintptr(unsafe.Pointer(unsafe.SliceData(mem))), uintptr(len(mem)), unix.MLOCK_ONFAULT)
	if errno != 0 {
		unix.Munmap(mem) //nolint:errcheck // it is ours
		return
	}
	k.mem = mem
}

func (k *keptLog) close() {
	if k.mem != nil {
		unix.Munmap(k.mem) //nolint:errcheck // it is ours
	}
	*k = keptLog{path: k.path}
}
