package leftovers

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// leave runs a script that leaves a process behind and prints its number.
func leave(t *testing.T, dir, script string) int {
	t.Helper()
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	require.True(t, alive(pid))
	return pid
}

func alive(pid int) bool {
	_, state, ok := started(pid)
	return ok && state != 'Z'
}

// becomes waits until a process has begun what it is to be.
func becomes(t *testing.T, pid int, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		return err == nil && strings.TrimSpace(string(b)) == name
	}, time.Minute, 5*time.Millisecond, "it never became %s", name)
}

const quiet = " >/dev/null 2>&1 </dev/null & echo $!"

func TestEnd(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	view := filepath.Join(t.TempDir(), "view")
	require.NoError(t, os.MkdirAll(filepath.Join(view, "sub"), 0o755))
	beside := view + "s"
	require.NoError(t, os.MkdirAll(beside, 0o755))
	b, err := os.ReadFile("/bin/sleep")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(view, "mysleep"), b, 0o755))

	stays := leave(t, beside, "setsid sleep 100"+quiet)
	reads := leave(t, beside, "setsid bash -c 'cat ../view/nothing; exec sleep 100'"+quiet)
	gone := map[string]int{
		"cwd":      leave(t, filepath.Join(view, "sub"), "setsid sleep 100"+quiet),
		"exe":      leave(t, "/", "setsid "+view+"/mysleep 100"+quiet),
		"open":     leave(t, "/", "setsid bash -c 'exec 7>"+view+"/log; exec sleep 100'"+quiet),
		"stubborn": leave(t, view, `setsid bash -c 'trap "" TERM; while :; do read -t 1 < <(:) || sleep 0.1; done'`+quiet),
	}
	for _, pid := range []int{stays, reads, gone["cwd"], gone["open"]} {
		becomes(t, pid, "sleep")
	}
	becomes(t, gone["exe"], "mysleep")
	becomes(t, gone["stubborn"], "bash")
	begin := time.Now()
	ended, err := End(t.Context(), view, os.Getuid())
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(ended), len(gone))
	require.Less(t, time.Since(begin), 50*time.Second) // they sleep for 100
	for what, pid := range gone {
		require.False(t, alive(pid), what)
	}
	require.True(t, alive(stays))
	require.True(t, alive(reads))
	again, err := End(t.Context(), view, os.Getuid())
	require.NoError(t, err)
	require.Empty(t, again)
}

// TestEndFollowsNoLink: a view that a job has put a link in the place of is not looked for where
// that leads.
func TestEndFollowsNoLink(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "view")
	require.NoError(t, os.Symlink(dir, link))
	stays := leave(t, dir, "setsid sleep 100"+quiet)
	_, err := End(t.Context(), link, os.Getuid())
	require.Error(t, err)
	require.True(t, alive(stays))
}

// TestInService: what a job handed a file to is not the job's.
func TestInService(t *testing.T) {
	for groups, want := range map[string]bool{
		"0::/system.slice/dbus.service\n":                                                           true,
		"1:name=systemd:/system.slice/system-postgres.slice/postgres@1.service\n0::/\n":             true,
		"0::/system.slice/containerd.service\n":                                                     true,
		"0::/system.slice/gitlab-runner.service\n":                                                  false,
		"0::/system.slice/system-gitlab\\x2drunner\\x2droost.slice/gitlab-runner-roost@1.service\n": false,
		"0::/system.slice/docker-0123abcd.scope\n":                                                  false,
		"0::/docker/0123abcd\n":                                                                     false,
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.service\n":                    false,
		"0::/\n": false,
		"":       false,
	} {
		require.Equal(t, want, inService(groups), groups)
	}
	s := &scan{uid: os.Getuid()}
	require.False(t, s.service(os.Getpid()), "the jobs' own")
}

// TestEndElsewhere: a process in a mount namespace of its own sees the view under another
// name.
func TestEndElsewhere(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash, testenv.Root)
	dir := t.TempDir()
	view, to := filepath.Join(dir, "view"), filepath.Join(dir, "to")
	require.NoError(t, os.MkdirAll(view, 0o755))
	require.NoError(t, os.MkdirAll(to, 0o755))
	in := leave(t, "/", fmt.Sprintf("unshare -m --propagation private bash -c 'mount --bind %s %s && cd %s && exec setsid sleep 100'", view, to, to)+quiet)
	out := leave(t, "/", fmt.Sprintf("unshare -m --propagation private bash -c 'mount --bind %s %s && exec setsid sleep 100'", view, to)+quiet)
	becomes(t, in, "sleep")
	becomes(t, out, "sleep")
	ended, err := End(t.Context(), view, os.Getuid())
	require.NoError(t, err)
	require.Len(t, ended, 1)
	require.Equal(t, in, ended[0].PID)
	require.Equal(t, "sleep", ended[0].Name)
	require.Contains(t, ended[0].Why, "cwd ")
	require.False(t, alive(in))
	require.True(t, alive(out))
}

// TestOwnChildrenStay: what the agent started itself is no leftover.
func TestOwnChildrenStay(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash)
	view := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	cmd.Dir = view
	require.NoError(t, cmd.Start())
	defer cmd.Wait()
	defer cmd.Process.Kill()
	ended, err := End(t.Context(), view, os.Getuid())
	require.NoError(t, err)
	require.Empty(t, ended)
	require.True(t, alive(cmd.Process.Pid))
}

// TestPoints: where a view appears in a namespace.
func TestPoints(t *testing.T) {
	s := &scan{dev: "8:1", part: "/store/slots/1/view"}
	require.Equal(t, []string{"/mnt/store/slots/1/view", "/builds/view", "/deep"}, s.points([]mount{
		{"8:1", "/", "/mnt"},
		{"8:2", "/", "/other"},
		{"8:1", "/store/slots/1", "/builds"},
		{"8:1", "/store/slots/1/view/a/b", "/deep"},
		{"8:1", "/store/slots/2", "/builds2"},
		{"8:1", "/store/slots/1/viewer", "/no"},
	}))
	s = &scan{dev: "0:45", part: "/"}
	require.Equal(t, []string{"/slots/1/v"}, s.points([]mount{{"0:45", "/", "/slots/1/v"}, {"0:46", "/", "/slots/2/v"}}))
}

// TestEndCgroup works on a group made here, with the test's own layout of the hierarchy.
func TestEndCgroup(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Bash, testenv.Root)
	dir := cgroupDir(t)
	if dir == "" {
		t.Log("no writable cgroup v2 here: only what is there without one is tested")
		ended, err := EndCgroup(t.Context(), Cgroup{Dir: filepath.Join(t.TempDir(), "none")})
		require.NoError(t, err)
		require.Empty(t, ended)
		return
	}
	join := func(pid int, dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0))
	}
	sub := filepath.Join(dir, "job")
	require.NoError(t, os.Mkdir(sub, 0o755))
	t.Cleanup(func() { os.Remove(sub) })
	runner := leave(t, "/", "setsid sleep 100"+quiet)
	time.Sleep(30 * time.Millisecond) // ticks are 10 ms
	left, below := leave(t, "/", "setsid sleep 100"+quiet), leave(t, "/", "setsid sleep 100"+quiet)
	join(runner, dir)
	join(left, dir)
	join(below, sub)
	ended, err := EndCgroup(t.Context(), Cgroup{Dir: dir, Runner: true})
	require.NoError(t, err)
	require.Len(t, ended, 2)
	require.True(t, alive(runner))
	require.False(t, alive(left))
	require.False(t, alive(below))
	_, err = EndCgroup(t.Context(), Cgroup{Dir: dir})
	require.NoError(t, err)
	require.False(t, alive(runner))
}

// cgroupDir makes a control group, "" if that can't be.
func cgroupDir(t *testing.T) string {
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		dir := filepath.Join(root, fmt.Sprintf("roost-leftovers-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() {
			for range 50 {
				if os.Remove(dir) == nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		return dir
	}
	return ""
}

// BenchmarkScan is what a look costs beside the machine's other processes.
func BenchmarkScan(b *testing.B) {
	view := b.TempDir()
	for b.Loop() {
		s, err := newScan(view)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.all(); err != nil {
			b.Fatal(err)
		}
	}
}
