package promises

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// power is a disk that has it, and the file system on it, mounted.
type power struct {
	t    testing.TB
	dir  string
	cmd  *exec.Cmd
	in   io.Writer
	said chan string
	errs strings.Builder
}

// on gives the disk its power, and mounts it.
func (c *cutting) on() *power {
	t := c.t
	c.boots++
	p := &power{t: t, dir: c.dir, said: make(chan string, 16), cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), childEnv+"=cutdisk", childDir+"="+c.dir)
	if c.fs != testenv.XFS {
		p.cmd.Env = append(p.cmd.Env, tornEnv+"=1")
	}
	p.cmd.Stderr = &p.errs
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var err error
	p.in, err = p.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	go func() {
		defer close(p.said)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			p.said <- sc.Text()
		}
	}()
	t.Cleanup(func() { p.end(true) })
	require.Equal(t, "ready", p.answer())
	opts := "loop"
	if c.fs == testenv.XFS {
		opts += ",nouuid"
	}
	b, err := exec.Command("mount", "-t", c.fs, "-o", opts, filepath.Join(c.dir, "mnt", cutFile), c.disk()).CombinedOutput()
	require.NoError(t, err, "%s", b)
	return p
}

func (p *power) answer() string {
	p.t.Helper()
	s, ok := <-p.said
	require.True(p.t, ok, "the disk is gone: %s", &p.errs)
	return s
}

func (p *power) tell(format string, args ...any) {
	p.t.Helper()
	_, err := fmt.Fprintf(p.in, format+"\n", args...)
	require.NoError(p.t, err)
}

// end unmounts all that is on the disk, and the disk. hurry is for a test that failed.
func (p *power) end(hurry bool) {
	if p.cmd == nil {
		return
	}
	fs, mnt := filepath.Join(p.dir, "fs"), filepath.Join(p.dir, "mnt")
	for _, m := range mountsBelow(p.dir) {
		if at := strings.Fields(m)[4]; at != fs && at != mnt {
			p.unmount(at, hurry)
		}
	}
	p.unmount(fs, hurry)
	if !hurry {
		p.tell("off")
		for p.answer() != "off" {
		}
	}
	p.unmount(mnt, hurry)
	if hurry {
		p.cmd.Process.Kill()
	}
	cmd := p.cmd
	p.cmd = nil
	for range p.said { // until it ends
	}
	if err := cmd.Wait(); !hurry {
		require.NoError(p.t, err, p.errs.String())
	}
}

// unmount waits for who has just been killed, and for loop devices, which go a moment
// later.
func (p *power) unmount(at string, hurry bool) {
	if hurry {
		unix.Unmount(at, unix.MNT_DETACH)
		return
	}
	var err error
	for range 6000 { // a minute
		if err = unix.Unmount(at, 0); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.NoError(p.t, err, at)
}
