package leftovers

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/roost-ci/roost/internal/mountinfo"
)

// scan looks for the processes that use a view. The kernel names what a process uses
// by paths in the process's own mount namespace, so it is worked out for each namespace
// where the view's file system, or the part of it that the view is, appears.
type scan struct {
	dev  string // major:minor of the view's file system
	part string // what of it the view is
	self int
	uid  int // of the jobs
	// at caches by mount namespace, sockets by network namespace and points.
	at      map[string][]string
	sockets map[string]map[string]bool
}

// mount is what we need of a line of mountinfo.
type mount struct{ dev, root, point string }

func newScan(view string) (*scan, error) {
	// Jobs may write to the directory that the view is in: a link there is no view.
	dir, err := filepath.EvalSymlinks(filepath.Dir(view))
	if err != nil {
		return nil, err
	}
	view = filepath.Join(dir, filepath.Base(view))
	fi, err := os.Lstat(view)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", view)
	}
	s := &scan{self: os.Getpid(), at: map[string][]string{}, sockets: map[string]map[string]bool{}}
	mounts, err := readMounts(s.self)
	if err != nil {
		return nil, err
	}
	best := -1
	for i, m := range mounts { // of several at one point the last is seen
		if mountinfo.Inside(view, m.point) && (best < 0 || len(m.point) >= len(mounts[best].point)) {
			best = i
		}
	}
	if best < 0 {
		return nil, fmt.Errorf("nothing is mounted above %s", view)
	}
	m := mounts[best]
	s.dev, s.part = m.dev, filepath.Join(m.root, strings.TrimPrefix(view, m.point))
	if ns, err := os.Readlink("/proc/self/ns/mnt"); err == nil {
		s.at[ns] = s.points(mounts)
	}
	return s, nil
}

// points is where a view appears among mounts.
func (s *scan) points(mounts []mount) []string {
	var out []string
	for _, m := range mounts {
		switch {
		case m.dev != s.dev:
		case mountinfo.Inside(s.part, m.root):
			out = append(out, filepath.Join(m.point, strings.TrimPrefix(s.part, strings.TrimSuffix(m.root, "/"))))
		case mountinfo.Inside(m.root, s.part):
			out = append(out, m.point)
		}
	}
	return out
}

// all lists who uses the view.
func (s *scan) all() ([]found, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read from
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, n := range names {
		pid, err := strconv.Atoi(n)
		if err != nil || pid == s.self || pid == 1 {
			continue
		}
		if why := s.uses(pid); why != "" && parentOf(pid) != s.self && !s.service(pid) {
			out = append(out, found{pid: pid, why: why, still: func() bool { return s.uses(pid) != "" }})
		}
	}
	return out, nil
}

// service reports whether a process is a service's of the system, and not of the jobs' user.
func (s *scan) service(pid int) bool {
	fi, err := os.Stat(procPath(pid, "."))
	if err != nil {
		return false
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || int(st.Uid) == s.uid {
		return false
	}
	groups, err := os.ReadFile(procPath(pid, "cgroup"))
	return err == nil && inService(string(groups))
}

// inService reports whether control groups, as the kernel lists those of a process, are a service's
// of the system. A runner's are not: its jobs are in them.
func inService(groups string) bool {
	for line := range strings.Lines(groups) {
		_, rest, ok := strings.Cut(strings.TrimSpace(line), "/system.slice/")
		if !ok {
			continue
		}
		for part := range strings.SplitSeq(rest, "/") {
			if strings.HasSuffix(part, ".service") {
				return !strings.Contains(part, "runner")
			}
		}
	}
	return false
}

// uses says what of the view a process uses, "" for nothing.
func (s *scan) uses(pid int) string {
	points := s.pointsOf(pid)
	if len(points) == 0 {
		return ""
	}
	in := func(path string) bool {
		for _, p := range points {
			if mountinfo.Inside(path, p) {
				return true
			}
		}
		return false
	}
	for _, what := range []string{"cwd", "root", "exe"} {
		if to, err := os.Readlink(procPath(pid, what)); err == nil && in(to) {
			return what + " " + to
		}
	}
	if why := s.usesFiles(pid, points, in); why != "" {
		return why
	}
	return usesMaps(pid, in)
}

// pointsOf is where the view appears to a process. A thread of the kernel has no
// namespace that could be read.
func (s *scan) pointsOf(pid int) []string {
	ns, err := os.Readlink(procPath(pid, "ns/mnt"))
	if err != nil {
		return nil
	}
	if p, ok := s.at[ns]; ok {
		return p
	}
	mounts, err := readMounts(pid)
	if err != nil {
		return nil
	}
	points := s.points(mounts)
	if root, err := os.Readlink(procPath(pid, "root")); err == nil && root == "/" {
		s.at[ns] = points // else they are as seen from its own root
	}
	return points
}

// usesFiles looks through a process's open files.
func (s *scan) usesFiles(pid int, points []string, in func(string) bool) string {
	dir := procPath(pid, "fd")
	d, err := os.Open(dir)
	if err != nil {
		return ""
	}
	defer d.Close()                //nolint:errcheck // only read from
	names, _ := d.Readdirnames(-1) //nolint:errcheck // what was read so far counts
	for _, n := range names {
		to, err := os.Readlink(filepath.Join(dir, n))
		if err != nil {
			continue
		}
		if in(to) {
			return "open " + to
		}
		if strings.HasPrefix(to, "socket:") && s.bound(pid, points, in)[to] {
			return "a socket in it"
		}
	}
	return ""
}

// bound lists the sockets of a process's network namespace that are bound to a path in
// the view, as file descriptors name them.
func (s *scan) bound(pid int, points []string, in func(string) bool) map[string]bool {
	ns, err := os.Readlink(procPath(pid, "ns/net"))
	if err != nil {
		return nil
	}
	ns += " " + strings.Join(points, "\x00")
	if b, ok := s.sockets[ns]; ok {
		return b
	}
	out := map[string]bool{}
	b, err := os.ReadFile(procPath(pid, "net/unix"))
	if err == nil {
		for line := range bytes.Lines(b) {
			// Num RefCount Protocol Flags Type St Inode Path
			f := strings.SplitN(strings.Join(strings.Fields(string(line)), " "), " ", 8)
			if len(f) == 8 && in(f[7]) {
				out["socket:["+f[6]+"]"] = true
			}
		}
	}
	s.sockets[ns] = out
	return out
}

// usesMaps looks through a process's mapped files.
func usesMaps(pid int, in func(string) bool) string {
	b, err := os.ReadFile(procPath(pid, "maps"))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		if i := bytes.IndexByte(line, '/'); i > 0 {
			if to := strings.TrimSuffix(string(line[i:]), "\n"); in(to) {
				return "maps " + to
			}
		}
	}
	return ""
}

// readMounts lists the mounts of a process's namespace, as seen from its root.
func readMounts(pid int) ([]mount, error) {
	b, err := os.ReadFile(procPath(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	var out []mount
	for line := range bytes.Lines(b) {
		f := bytes.SplitN(line, []byte(" "), 6)
		if len(f) == 6 {
			out = append(out, mount{dev: string(f[2]), root: mountinfo.Unescape(string(f[3])), point: mountinfo.Unescape(string(f[4]))})
		}
	}
	return out, nil
}
