//go:build linux

// Package dockertest gives tests a Docker daemon of their own, without a bridge and
// without any registry, and images made of this machine's own programs.
package dockertest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/roost-ci/roost/internal/testenv"
)

// Daemon is a running dockerd.
type Daemon struct {
	// Host is what DOCKER_HOST has to be.
	Host string
	t    testing.TB
	dir  string
	log  string
}

// Start starts a daemon that ends with t. Its containers know no network but the
// host's. It shares the mounts of this process. It needs root, docker and dockerd.
func Start(t testing.TB) *Daemon {
	t.Helper()
	testenv.Require(t, testenv.Linux, testenv.Root, "docker", "dockerd")
	dir, err := os.MkdirTemp("", "dkr") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Host: "unix://" + dir + "/s", t: t, dir: dir, log: filepath.Join(dir, "log")}
	log, err := os.Create(d.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("dockerd", "--host", d.Host, "--data-root", dir+"/data", "--exec-root", dir+"/exec", "--pidfile", dir+"/pid",
		"--bridge", "none", "--iptables=false", "--ip-masq=false", "--config-file", dir+"/none.json", "--shutdown-timeout", "5")
	cmd.Stdout, cmd.Stderr = log, log
	// its containerd must not outlive a test that is killed
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := os.WriteFile(dir+"/none.json", []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop(cmd) })
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if _, err := d.docker(t.Context(), nil, "version"); err == nil {
			return d
		}
		if time.Now().After(end) {
			b, _ := os.ReadFile(d.log)
			t.Fatalf("dockerd does not start:\n%s", b)
		}
	}
}

// At is a daemon that runs already, and that the caller ends.
func At(t testing.TB, host string) *Daemon { return &Daemon{Host: host, t: t} }

func (d *Daemon) stop(cmd *exec.Cmd) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if out, err := d.docker(ctx, nil, "ps", "-aq"); err == nil && len(bytes.TrimSpace(out)) > 0 {
		if out, err := d.docker(ctx, nil, append([]string{"rm", "-f", "-v"}, strings.Fields(string(out))...)...); err != nil {
			d.t.Errorf("containers are left: %v: %s", err, out)
		}
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(30*time.Second, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait() // ended by a signal
	timer.Stop()
	d.unmount()
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Error(err)
	}
}

// unmount takes away what the daemon may have left mounted in its directory.
func (d *Daemon) unmount() {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		d.t.Error(err)
	}
	for line := range strings.SplitSeq(string(b), "\n") {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], d.dir+"/") {
			_ = exec.Command("umount", "-l", f[1]).Run() // RemoveAll will say
		}
	}
}

// Docker runs docker and returns what it says; a failure ends t.
func (d *Daemon) Docker(args ...string) string {
	d.t.Helper()
	out, err := d.docker(d.t.Context(), nil, args...)
	if err != nil {
		d.t.Fatalf("docker %s: %v: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

func (d *Daemon) docker(ctx context.Context, in *bytes.Buffer, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST="+d.Host)
	if in != nil {
		cmd.Stdin = in
	}
	return cmd.CombinedOutput()
}
