package promises

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A supervisor sees every write-like system call of another process before it is
// made (seccomp's user notification), and lets it pass or makes it fail. So each
// step of an operation can fail, in the very binary that does it, without a
// failing disk and without a line in the code that is tested.

// Where a call says what it works on.
const (
	byFd   = iota // args[0] is a descriptor
	byPath        // args[0] is a path
	byAt          // args[0] is a directory, args[1] a path
	byAt2         // args[2] is a directory, args[3] a path: renames
	byBoth        // args[0] and args[1] are paths
	atAll         // of a mount: counts wherever it is
)

// trapped are the calls that change something on a disk, or mount it.
var trapped = map[uintptr]struct {
	name string
	arg  int
}{
	unix.SYS_WRITE: {"write", byFd}, unix.SYS_PWRITE64: {"pwrite", byFd}, unix.SYS_WRITEV: {"writev", byFd},
	unix.SYS_PWRITEV: {"pwritev", byFd}, unix.SYS_FTRUNCATE: {"ftruncate", byFd}, unix.SYS_FALLOCATE: {"fallocate", byFd},
	unix.SYS_FSYNC: {"fsync", byFd}, unix.SYS_FDATASYNC: {"fdatasync", byFd}, unix.SYS_SYNCFS: {"syncfs", byFd},
	unix.SYS_FCHMOD: {"fchmod", byFd}, unix.SYS_FCHOWN: {"fchown", byFd}, unix.SYS_FSETXATTR: {"fsetxattr", byFd},
	unix.SYS_OPENAT: {"create", byAt}, unix.SYS_OPENAT2: {"openat2", byAt}, unix.SYS_OPEN: {"create", byPath},
	unix.SYS_MKDIRAT: {"mkdir", byAt}, unix.SYS_MKDIR: {"mkdir", byPath}, unix.SYS_MKNODAT: {"mknod", byAt},
	unix.SYS_SYMLINKAT: {"symlink", byFd}, unix.SYS_LINKAT: {"link", byAt2},
	unix.SYS_RENAMEAT: {"rename", byAt2}, unix.SYS_RENAMEAT2: {"rename", byAt2}, unix.SYS_RENAME: {"rename", byBoth},
	unix.SYS_UNLINKAT: {"unlink", byAt}, unix.SYS_UNLINK: {"unlink", byPath}, unix.SYS_RMDIR: {"rmdir", byPath},
	unix.SYS_FCHMODAT: {"chmod", byAt}, unix.SYS_CHMOD: {"chmod", byPath}, unix.SYS_FCHOWNAT: {"chown", byAt},
	unix.SYS_LCHOWN: {"chown", byPath}, unix.SYS_CHOWN: {"chown", byPath}, unix.SYS_UTIMENSAT: {"utimens", byAt}, unix.SYS_TRUNCATE: {"truncate", byPath},
	unix.SYS_SETXATTR: {"setxattr", byPath}, unix.SYS_LSETXATTR: {"setxattr", byPath}, unix.SYS_COPY_FILE_RANGE: {"copy_file_range", byAt2},
	unix.SYS_MOUNT: {"mount", atAll}, unix.SYS_FSCONFIG: {"fsconfig", atAll}, unix.SYS_FSMOUNT: {"fsmount", atAll},
	unix.SYS_MOVE_MOUNT: {"move_mount", atAll}, unix.SYS_UMOUNT2: {"umount", atAll},
}

const (
	seccompSetModeFilter = 1
	seccompFlags         = 1<<0 | 1<<3 | 1<<4 // TSYNC, NEW_LISTENER, TSYNC_ESRCH
	retUserNotif         = 0x7fc00000
	retAllow             = 0x7fff0000
	notifRecv            = 0xc0502100
	notifSend            = 0xc0182101
	notifContinue        = 1
)

type notif struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type notifResp struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// installTrap puts this process under supervision and returns the descriptor that
// the supervisor has to take. Its own first three descriptors stay free, and so
// does opening a file to read.
func installTrap() (int, error) {
	const argLo = 16 // of args[0] in struct seccomp_data, little endian
	stmt := func(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
	jump := func(code uint16, k uint32, t, f uint8) unix.SockFilter {
		return unix.SockFilter{Code: code, K: k, Jt: t, Jf: f}
	}
	load, eq := uint16(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS), uint16(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K)
	prog := []unix.SockFilter{stmt(load, 0)}
	for nr := range trapped {
		switch nr {
		case unix.SYS_WRITE:
			prog = append(prog, jump(eq, uint32(nr), 0, 4), stmt(load, argLo),
				jump(unix.BPF_JMP|unix.BPF_JGE|unix.BPF_K, 3, 0, 1), stmt(unix.BPF_RET, retUserNotif), stmt(unix.BPF_RET, retAllow))
		case unix.SYS_OPENAT, unix.SYS_OPEN:
			flags := uint32(argLo + 16)
			if nr == unix.SYS_OPEN {
				flags = argLo + 8
			}
			prog = append(prog, jump(eq, uint32(nr), 0, 4), stmt(load, flags),
				jump(unix.BPF_JMP|unix.BPF_JSET|unix.BPF_K, unix.O_CREAT|unix.O_TRUNC, 0, 1), stmt(unix.BPF_RET, retUserNotif), stmt(unix.BPF_RET, retAllow))
		default:
			prog = append(prog, jump(eq, uint32(nr), 0, 1), stmt(unix.BPF_RET, retUserNotif))
		}
	}
	prog = append(prog, stmt(unix.BPF_RET, retAllow))
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, err
	}
	f := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, seccompSetModeFilter, seccompFlags, uintptr(unsafe.Pointer(&f)))
	if errno != 0 {
		return -1, fmt.Errorf("seccomp: %w", errno)
	}
	return int(fd), nil
}

// call is one trapped call that had to do with the supervised directory.
type call struct {
	name string
	path string
	from string // of a rename
}

func (c call) String() string { return c.name + " " + c.path }

// supervisor answers for one process. Until arm it lets everything pass.
type supervisor struct {
	t   testing.TB
	fd  int
	dir string
	end chan struct{}

	mu     sync.Mutex // guards all below
	on     bool
	n      int // calls since arm
	at     int // which one fails, from 1; 0: none
	sticky bool
	errno  unix.Errno
	skip   map[string]bool
	calls  []call
	failed []call
}

func supervise(t testing.TB, pid, fd int, dir string) *supervisor {
	pidfd, err := unix.PidfdOpen(pid, 0)
	require.NoError(t, err)
	defer unix.Close(pidfd)
	got, err := unix.PidfdGetfd(pidfd, fd, 0)
	require.NoError(t, err)
	s := &supervisor{t: t, fd: got, dir: dir, end: make(chan struct{})}
	go s.serve()
	return s
}

func (s *supervisor) serve() {
	defer close(s.end)
	defer unix.Close(s.fd)
	for {
		p := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(p, -1); err == unix.EINTR { //nolint:errorlint // a plain errno
			continue
		}
		if p[0].Revents&unix.POLLIN == 0 {
			return // nobody is left
		}
		var n notif
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), notifRecv, uintptr(unsafe.Pointer(&n))); e != 0 {
			continue
		}
		r := notifResp{id: n.id, flags: notifContinue}
		if e := s.decide(&n); e != 0 {
			r.flags, r.errno = 0, -int32(e)
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(s.fd), notifSend, uintptr(unsafe.Pointer(&r)))
	}
}

// arm makes the n-th call from now on fail, and all after it if sticky. 0 only
// counts. skip names calls that never fail.
func (s *supervisor) arm(n int, errno unix.Errno, sticky bool, skip ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on, s.n, s.at, s.errno, s.sticky, s.calls, s.failed = true, 0, n, errno, sticky, nil, nil
	s.skip = map[string]bool{}
	for _, name := range skip {
		s.skip[name] = true
	}
}

// disarm returns the calls that there were, and those that failed.
func (s *supervisor) disarm() (calls, failed []call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on = false
	return s.calls, s.failed
}

func (s *supervisor) decide(n *notif) unix.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.on {
		return 0
	}
	c, ok := s.resolve(n)
	if !ok || s.skip[c.name] {
		return 0
	}
	s.n++
	s.calls = append(s.calls, c)
	if s.at > 0 && (s.n == s.at || s.sticky && s.n > s.at) {
		s.failed = append(s.failed, c)
		return s.errno
	}
	return 0
}

// resolve says what a call works on, and whether that is ours.
func (s *supervisor) resolve(n *notif) (call, bool) {
	k := trapped[uintptr(n.nr)]
	c := call{name: k.name}
	switch k.arg {
	case atAll:
		c.path = "-"
		// Only what makes or changes a file system, not each of its options.
		return c, n.nr != unix.SYS_FSCONFIG || n.args[1] >= unix.FSCONFIG_CMD_CREATE
	case byFd:
		c.path = s.link(n, n.args[0])
		if n.nr == unix.SYS_SYMLINKAT {
			c.path = filepath.Join(s.link(n, n.args[1]), s.text(n, n.args[2]))
		}
	case byPath:
		c.path = s.text(n, n.args[0])
	case byBoth:
		c.path = s.text(n, n.args[1])
	case byAt, byAt2:
		i := 0
		if k.arg == byAt2 {
			i = 2
		}
		if n.nr == unix.SYS_COPY_FILE_RANGE {
			c.path = s.link(n, n.args[2])
			break
		}
		if c.path = s.text(n, n.args[i+1]); !filepath.IsAbs(c.path) {
			c.path = filepath.Join(s.link(n, n.args[i]), c.path)
		}
		if k.name == "rename" {
			if c.from = s.text(n, n.args[1]); !filepath.IsAbs(c.from) {
				c.from = filepath.Join(s.link(n, n.args[0]), c.from)
			}
		}
		if n.nr == unix.SYS_OPENAT2 {
			how := s.memory(n, n.args[2], 8)
			if len(how) < 8 || (uint32(how[0])|uint32(how[1])<<8)&(unix.O_CREAT|unix.O_TRUNC) == 0 {
				return c, false
			}
		}
	}
	if num, ok := strings.CutPrefix(c.path, "/proc/self/fd/"); ok {
		if fd, err := strconv.Atoi(num); err == nil {
			c.path = s.link(n, uint64(fd))
		}
	}
	return c, strings.HasPrefix(c.path, s.dir)
}

func (s *supervisor) link(n *notif, fd uint64) string {
	name := fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd))
	if int32(fd) == unix.AT_FDCWD {
		name = fmt.Sprintf("/proc/%d/cwd", n.pid)
	}
	p, _ := os.Readlink(name)
	return strings.TrimSuffix(p, " (deleted)")
}

func (s *supervisor) text(n *notif, addr uint64) string {
	b := s.memory(n, addr, 4096)
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// memory reads up to size bytes; less where a page ends that is the last one.
func (s *supervisor) memory(n *notif, addr uint64, size int) []byte {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid))
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, size)
	got, _ := f.ReadAt(b, int64(addr))
	return b[:got]
}
