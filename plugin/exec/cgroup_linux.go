package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

const cgroupPrefix = "roost-"

// findCgroups returns the directory in which cgroups for jobs can be made: our
// own cgroup of the unified hierarchy, wherever that is mounted. It makes one and
// runs a shell in it to be sure.
func findCgroups(shell string) (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	own := ""
	for _, l := range strings.Split(string(b), "\n") {
		if p, ok := strings.CutPrefix(l, "0::"); ok {
			own = p
		}
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", err
	}
	if own == "" || len(mounts) == 0 {
		return "", errors.New("no cgroup v2 hierarchy")
	}
	for _, m := range mounts {
		rel, err := filepath.Rel(m.Root, own)
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			continue
		}
		dir := filepath.Join(m.Mountpoint, rel)
		if err = tryCgroup(dir, shell); err == nil {
			return dir, nil
		}
		return "", err
	}
	return "", errors.New("our own cgroup is not in what is mounted")
}

const probePrefix = cgroupPrefix + "probe-"

// sweepProbes removes the empty cgroups of processes that were killed while they tried.
func sweepProbes(dir string) {
	found, err := filepath.Glob(filepath.Join(dir, probePrefix+"*"))
	if err != nil {
		return
	}
	for _, cg := range found {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(cg), probePrefix))
		if err != nil {
			continue
		}
		if _, alive := readStat(pid); !alive {
			unix.Rmdir(cg) //nolint:errcheck // one that is not empty stays
		}
	}
}

// tryCgroup runs one shell in a cgroup below dir.
func tryCgroup(dir, shell string) error {
	sweepProbes(dir)
	cg := filepath.Join(dir, fmt.Sprintf("%s%d", probePrefix, os.Getpid()))
	if err := makeCgroup(cg); err != nil {
		return err
	}
	defer endCgroup(cg, time.Second) //nolint:errcheck // empty, or about to be
	fd, err := unix.Open(cg, unix.O_DIRECTORY|unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // a directory
	p, err := os.StartProcess(shell, []string{"bash", "--norc", "--noprofile", "-c", ":"}, &os.ProcAttr{
		Env: []string{}, Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd},
	})
	if err != nil {
		return fmt.Errorf("start a process in %s: %w", cg, err)
	}
	_, err = p.Wait()
	return err
}

// makeCgroup makes one, and checks that what is in it can be killed at once
// (Linux 5.14).
func makeCgroup(cg string) error {
	if err := os.Mkdir(cg, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cg, "cgroup.kill")); err != nil {
		os.Remove(cg) //nolint:errcheck // just made
		return err
	}
	return nil
}

// endCgroup kills all that is in a cgroup, and below it, and removes it. One that
// does not exist is fine.
func endCgroup(cg string, limit time.Duration) error {
	err := os.WriteFile(filepath.Join(cg, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for waited, wait := time.Duration(0), time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		b, err := os.ReadFile(filepath.Join(cg, "cgroup.events"))
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "populated 0") {
			if err := removeCgroup(cg); err == nil {
				return nil
			}
		}
		if waited >= limit {
			return fmt.Errorf("processes in %s survive being killed", cg)
		}
		time.Sleep(wait)
		waited += wait
	}
}

// removeCgroup removes an empty cgroup, and those that a job of root made in it.
func removeCgroup(cg string) error {
	des, err := os.ReadDir(cg)
	if err != nil {
		return err
	}
	for _, de := range des {
		if de.IsDir() {
			if err := removeCgroup(filepath.Join(cg, de.Name())); err != nil {
				return err
			}
		}
	}
	return unix.Rmdir(cg)
}

// isOurCgroup reports whether a path from a record may be killed: a cgroup of
// that very attempt.
func isOurCgroup(cg string, id string) bool {
	if !filepath.IsAbs(cg) || filepath.Base(filepath.Clean(cg)) != cgroupPrefix+id {
		return false
	}
	var st unix.Statfs_t
	return unix.Statfs(cg, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}
