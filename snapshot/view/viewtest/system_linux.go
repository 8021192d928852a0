package viewtest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// mountsBelow lists the mount points at dir and below it.
func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	if r, err := filepath.EvalSymlinks(dir); err == nil {
		dir = r
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); f[4] == dir || strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[4])
		}
	}
	return out
}

func setTime(p string, at time.Time) error {
	ts := unix.NsecToTimespec(at.UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

func mkfifo(p string) error                      { return unix.Mkfifo(p, 0o640) }
func mknod(p string, mode uint32, dev int) error { return unix.Mknod(p, mode, dev) }
func setxattr(p, name string, v []byte) error {
	return unix.Lsetxattr(p, name, v, 0)
}

const (
	charDevice  = unix.S_IFCHR | 0o600
	blockDevice = unix.S_IFBLK | 0o600
)

// rename is rename(2): what is tested is that it works inside a view.
func rename(from, to string) error { return unix.Rename(from, to) }

func mksocket(p string) error { return unix.Mknod(p, unix.S_IFSOCK|0o600, 0) }

// blocks is the disk space of a file in KiB.
func blocks(t testing.TB, p string) int64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Lstat(p, &st))
	return st.Blocks / 2
}

// posixACL is the kernel's form of "u::rw-,u:1234:r--,g::r--,m::r--,o::r--".
func posixACL() []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range [][2]uint32{{0x01 | 6<<16, 0xffffffff}, {0x02 | 4<<16, 1234}, {0x04 | 4<<16, 0xffffffff}, {0x10 | 4<<16, 0xffffffff}, {0x20 | 4<<16, 0xffffffff}} {
		b = binary.LittleEndian.AppendUint32(b, e[0])
		b = binary.LittleEndian.AppendUint32(b, e[1])
	}
	return b
}
