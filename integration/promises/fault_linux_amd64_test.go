package promises

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// space are calls that need no space on any disk.
var space = []string{"unlink", "rmdir", "umount", "fsmount", "move_mount", "mount", "fsconfig", "chmod", "fchmod", "utimens", "ftruncate"}

// TestFaults makes write-like system calls fail, one after the other, of all that
// a store does: with EIO and with ENOSPC, that call alone or all from it on. After
// each the operation must be done or not done, all else untouched, and the next try
// must work, in the same process and in the next one.
func TestFaults(t *testing.T) {
	cases := count(30, 600, 1<<30)
	r, _ := seeded(t)
	drivers(t, func(t *testing.T, driver string) {
		began := time.Now()
		h := startFaulty(t, driver)
		all := h.list()
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		total := len(all)
		failed, bad := 0, 0
		for _, c := range all[:min(len(all), cases/len(working(t)))] {
			n, ok := h.run(c, r.IntN(2) == 0)
			failed += n
			if !ok {
				if bad++; bad == 20 {
					break // more of them say nothing new
				}
			}
		}
		h.stop()
		n := min(len(all), cases/len(working(t)))
		record(t, began, "ENOSPC and EIO", n, "of %d cases (each call of %s fails, alone or with all that follow); %d calls failed, nothing lost, each next try worked",
			total, strings.Join(operations, ", "), failed)
	})
}

// faultCase is one way for an operation to fail.
type faultCase struct {
	op     string
	at     int
	errno  unix.Errno
	sticky bool
}

func (c faultCase) String() string {
	how := "alone"
	if c.sticky {
		how = "and all that follow"
	}
	return fmt.Sprintf("%s, %s at call %d %s", c.op, unix.ErrnoName(c.errno), c.at, how)
}

func (c faultCase) skip() []string {
	switch {
	case c.errno == unix.ENOSPC:
		return space
	case c.op == "mount":
		return []string{"umount"} // the caller has to try again
	}
	return nil
}

// faults drives one child.
type faults struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	errs  *strings.Builder
	super *supervisor
}

func startFaulty(t *testing.T, driver string) *faults {
	h := &faults{t: t, errs: &strings.Builder{}}
	dir := tempDir(t)
	h.cmd = exec.Command("/proc/self/exe")
	h.cmd.Env = append(os.Environ(), childEnv+"=fault", childDir+"="+dir, driverEnv+"="+driver)
	h.cmd.Stderr = h.errs
	var err error
	h.in, err = h.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := h.cmd.StdoutPipe()
	require.NoError(t, err)
	h.out = bufio.NewScanner(out)
	require.NoError(t, h.cmd.Start())
	t.Cleanup(func() { h.cmd.Process.Kill() })
	h.super = supervise(t, h.cmd.Process.Pid, h.answer("the beginning").Fd, dir)
	return h
}

func (h *faults) answer(to string) (a answer) {
	h.t.Helper()
	watch := time.AfterFunc(5*time.Minute, func() { h.cmd.Process.Signal(syscall.SIGQUIT) })
	defer watch.Stop()
	if !h.out.Scan() {
		h.cmd.Wait()
		h.t.Fatalf("no answer to %s: %s", to, h.errs)
	}
	require.NoError(h.t, json.Unmarshal(h.out.Bytes(), &a), "%s", h.out.Text())
	return a
}

func (h *faults) ask(what string) answer {
	h.t.Helper()
	_, err := fmt.Fprintln(h.in, what)
	require.NoError(h.t, err)
	return h.answer(what)
}

// list counts the calls of each operation and makes a case of each.
func (h *faults) list() (all []faultCase) {
	for _, op := range operations {
		if only := os.Getenv("ROOST_OPERATION"); only != "" && only != op {
			continue
		}
		for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
			c := faultCase{op: op, errno: errno}
			require.Empty(h.t, h.ask("set "+op).Bad, op)
			h.super.arm(0, 0, false, c.skip()...)
			require.Empty(h.t, h.ask("do").Err, op)
			calls, _ := h.super.disarm()
			require.Empty(h.t, h.ask("check reopen").Bad, op)
			require.NotEmpty(h.t, calls, op)
			for i := range calls {
				all = append(all, faultCase{op, i + 1, errno, false}, faultCase{op, i + 1, errno, true})
			}
		}
	}
	return all
}

// run does one case and returns how many calls failed.
func (h *faults) run(c faultCase, retry bool) (n int, ok bool) {
	h.t.Helper()
	require.Empty(h.t, h.ask("set "+c.op).Bad, c.String())
	h.super.arm(c.at, c.errno, c.sticky, c.skip()...)
	did := h.ask("do")
	_, failed := h.super.disarm()
	how := "reopen"
	if retry {
		how = "retry"
	}
	bad := h.ask("check " + how).Bad
	if bad != "" {
		h.t.Errorf("%s\n  failed: %v\n  it said: %s\n  check: %s", c, failed[:min(len(failed), 5)], did.Err, bad)
		require.Empty(h.t, h.ask("check reopen").Bad, "not even the next process can help")
	}
	return len(failed), bad == ""
}

func (h *faults) stop() {
	h.in.Close()
	require.NoError(h.t, h.cmd.Wait(), h.errs.String())
	<-h.super.end
}
