package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// rig is a machine with systemd as process 1: namespaces over a copy on write of this
// machine's root, with its network. What is written stays over a reboot.
type rig struct {
	t      *testing.T
	dir    string
	cgroup string // on the mount of this test's own
	net    *os.File
	cmd    *exec.Cmd
	done   chan struct{}
}

// masked are units that would touch this machine, or have nothing to do in there.
var masked = strings.Fields(`systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket
	systemd-udevd-kernel.socket systemd-sysctl.service systemd-modules-load.service systemd-random-seed.service
	systemd-timesyncd.service systemd-networkd.service systemd-resolved.service systemd-logind.service getty.target
	systemd-remount-fs.service systemd-hwdb-update.service dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount
	sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount
	proc-sys-fs-binfmt_misc.mount systemd-binfmt.service kmod-static-nodes.service systemd-tmpfiles-setup-dev.service
	systemd-firstboot.service systemd-machine-id-commit.service systemd-update-utmp.service systemd-sysusers.service
	getty-static.service networking.service ldconfig.service docker.service docker.socket containerd.service`)

// newRig makes the machine and boots it. It ends with t.
func newRig(t *testing.T) *rig {
	r := makeRig(t)
	r.boot()
	return r
}

// makeRig makes the machine, which is down.
func makeRig(t *testing.T) *rig {
	testenv.Require(t, testenv.Root, testenv.Overlay, "unshare", "nsenter", "pivot_root", "/lib/systemd/systemd")
	r := &rig{t: t, dir: stateDir(t)}
	for _, d := range []string{"upper", "work", "root", "lib", "lib/roost", "cg"} {
		require.NoError(t, os.Mkdir(filepath.Join(r.dir, d), 0o755))
	}
	cg := filepath.Join(r.dir, "cg")
	require.NoError(t, unix.Mount("cgroup2", cg, "cgroup2", 0, ""))
	r.cgroup = filepath.Join(cg, filepath.Base(r.dir))
	require.NoError(t, os.Mkdir(r.cgroup, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "cgroup"), []byte(r.cgroup), 0o644))
	require.NoError(t, unix.Mount("overlay", r.path("/"), "overlay", 0, "lowerdir=/,upperdir="+r.dir+"/upper,workdir="+r.dir+"/work"))
	t.Cleanup(r.remove)

	units := r.path("/etc/systemd/system")
	require.NoError(t, os.RemoveAll(units))
	require.NoError(t, os.Mkdir(units, 0o755))
	require.NoError(t, os.Symlink("/lib/systemd/system/multi-user.target", filepath.Join(units, "default.target")))
	for _, u := range masked {
		require.NoError(t, os.Symlink("/dev/null", filepath.Join(units, u)))
	}
	// Nothing else of this machine's starts there.
	own, err := filepath.Glob("/lib/systemd/system/multi-user.target.wants/*")
	require.NoError(t, err)
	for _, u := range own {
		_ = os.Symlink("/dev/null", filepath.Join(units, filepath.Base(u))) // some are masked already
	}
	for name, text := range map[string]string{"fstab": "", "machine-id": "", "profile": "", "hostname": "rig\n"} { // little of this machine's
		require.NoError(t, os.WriteFile(r.path("/etc/"+name), []byte(text), 0o644))
	}
	return r
}

// ownNetwork gives the machine a network of its own, with one address that is reached
// from everywhere in it.
func (r *rig) ownNetwork(address string) {
	r.t.Helper()
	testenv.Require(r.t, "ip")
	var err error
	inThread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			r.net, err = os.Open("/proc/thread-self/ns/net")
		}
	})
	require.NoError(r.t, err)
	r.t.Cleanup(func() { r.net.Close() })
	require.NoError(r.t, os.WriteFile(filepath.Join(r.dir, "net"), nil, 0o644))
	r.inNetwork(func() {
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", address + "/32", "dev", "lo"}} {
			if out, e := exec.Command("ip", args...).CombinedOutput(); e != nil {
				err = fmt.Errorf("ip %q: %w: %s", args, e, out)
			}
		}
	})
	require.NoError(r.t, err)
}

// inNetwork calls f in a thread that is in the machine's network: sockets that it makes
// are there.
func (r *rig) inNetwork(f func()) {
	r.t.Helper()
	var err error
	inThread(func() {
		if err = unix.Setns(int(r.net.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	})
	require.NoError(r.t, err)
}

// inThread calls f in a thread whose network is put back. The thread must not end: what was
// started from it would be killed.
func inThread(f func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			panic(err)
		}
		defer own.Close()
		f()
		if err := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		runtime.UnlockOSThread()
	})
	wg.Wait()
}

// path is a file of the machine as this process sees it while the machine is down.
func (r *rig) path(p string) string { return filepath.Join(r.dir, "root", p) }

// boot starts it and waits until systemd says that all is up.
func (r *rig) boot() {
	r.t.Helper()
	log, err := os.OpenFile(filepath.Join(r.dir, "console"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(r.t, err)
	defer log.Close()
	script, err := filepath.Abs("testdata/boot.sh")
	require.NoError(r.t, err)
	r.cmd = exec.Command("bash", script, r.dir)
	if r.net != nil {
		r.cmd = exec.Command("nsenter", "--net=/proc/self/fd/3", "bash", script, r.dir)
		r.cmd.ExtraFiles = []*os.File{r.net}
	}
	r.cmd.Stdout, r.cmd.Stderr = log, log
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(r.t, r.cmd.Start())
	done := make(chan struct{})
	r.done = done
	cmd := r.cmd
	go func() {
		_ = cmd.Wait() // a machine that is switched off ends by a signal
		close(done)
	}()
	require.Eventually(r.t, func() bool {
		out, err := r.try("systemctl", "is-system-running")
		return err == nil && strings.TrimSpace(out) == "running"
	}, 2*time.Minute, 100*time.Millisecond, "it does not boot")
}

// init is systemd's process here.
func (r *rig) init() string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%[1]d/task/%[1]d/children", r.cmd.Process.Pid))
	if err != nil || len(bytes.Fields(b)) != 1 {
		return ""
	}
	return string(bytes.Fields(b)[0])
}

// try runs a command there, as root.
func (r *rig) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pid := r.init()
	if pid == "" {
		return "", os.ErrProcessDone
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-m", "-p", "-u", "-i", "-C", "-n", "-r", "-w", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// do runs a command there that has to succeed.
func (r *rig) do(args ...string) string {
	r.t.Helper()
	out, err := r.try(args...)
	require.NoError(r.t, err, "%q: %s", args, out)
	return out
}

// sh runs a line of the shell there.
func (r *rig) sh(line string) string {
	r.t.Helper()
	return r.do("sh", "-ec", line)
}

// reboot shuts it down in order and boots it again.
func (r *rig) reboot() {
	r.t.Helper()
	_, _ = r.try("systemctl", "reboot") // the machine may go before the command does
	select {
	case <-r.done:
	case <-time.After(2 * time.Minute):
		r.t.Fatal("it does not shut down")
	}
	r.boot()
}

// cut ends every process at once and boots it again: a power cut, but for what the page
// cache still had.
func (r *rig) cut() {
	r.t.Helper()
	require.NoError(r.t, r.cmd.Process.Kill())
	<-r.done
	r.boot()
}

// remove takes everything away.
func (r *rig) remove() {
	if r.cmd != nil {
		if r.t.Failed() {
			units, _ := r.try("systemctl", "list-units", "--no-pager", "--failed")
			log, _ := r.try("journalctl", "--no-pager", "-n", "150", "-o", "cat")
			r.t.Logf("console:\n%s\n%s\njournal:\n%s", tailFile(filepath.Join(r.dir, "console"), 30), units, log)
		}
		_ = r.cmd.Process.Kill()
		<-r.done
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if b, _ := os.ReadFile(filepath.Join(r.cgroup, "cgroup.events")); bytes.Contains(b, []byte("populated 0")) || time.Now().After(end) {
			break
		}
	}
	var groups []string
	_ = filepath.WalkDir(r.cgroup, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			groups = append(groups, p)
		}
		return nil
	})
	for i := len(groups) - 1; i >= 0; i-- {
		if err := os.Remove(groups[i]); err != nil {
			r.t.Error(err)
		}
	}
	for _, m := range []string{"root", "cg"} {
		if err := unix.Unmount(filepath.Join(r.dir, m), 0); err != nil {
			r.t.Errorf("umount %s: %v", m, err)
		}
	}
}
