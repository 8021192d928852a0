package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/gitlabtest/runner"
)

// binary builds the command once per test run: as people get it, and with the
// steps at which it can be made to die.
var (
	binary     = sync.OnceValues(func() (string, error) { return build("roost") })
	failBinary = sync.OnceValues(func() (string, error) { return build("roost-fail", "-tags", "failpoints") })
	buildDir   string
)

func TestMain(m *testing.M) {
	runner.Main()
	dir, err := os.MkdirTemp("", "roost-integration-")
	if err != nil {
		panic(err)
	}
	// Jobs run as another user, who must be able to start the binary.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	buildDir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func build(name string, flags ...string) (string, error) {
	out := filepath.Join(buildDir, name)
	args := append(append([]string{"build"}, flags...), "-o", out, "./cmd/roost")
	cmd := exec.Command("go", args...)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, b)
	}
	return out, nil
}

func roostBinary(t testing.TB) string {
	t.Helper()
	bin, err := binary()
	require.NoError(t, err)
	return bin
}

// result is what a command did.
type result struct {
	code        int
	out, errOut string
}

// roost runs a command to its end.
func roost(t testing.TB, dir string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, roostBinary(t), args...)
	cmd.Dir = dir
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var x *exec.ExitError
	if err != nil && !asExit(err, &x) {
		t.Fatalf("roost %s: %v", strings.Join(args, " "), err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func asExit(err error, x **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // Run wraps nothing
	*x = e
	return ok
}

// stateDir is a directory that another user can walk through, as a real state
// directory is.
func stateDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "roost-state-") //nolint:usetesting // t.TempDir is closed to other users
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if !t.Failed() {
			removeTree(t, dir)
		} else {
			t.Logf("state kept in %s", dir)
		}
	})
	return dir
}

// removeTree deletes a state directory and everything that jobs made unwritable.
func removeTree(t testing.TB, dir string) {
	filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
	require.NoError(t, os.RemoveAll(dir))
}

// proc is a daemon under test. It is started again whenever it dies.
type proc struct {
	t    testing.TB
	name string
	bin  string
	args []string
	log  *os.File

	mu     sync.Mutex
	cmd    *exec.Cmd
	stopIn io.WriteCloser
	wait   chan struct{}
	deaths int // by SIGKILL
	ended  bool
	ready  chan string
}

// launch starts a daemon; env applies to the first start alone.
func launch(t testing.TB, bin, logDir, name string, env []string, args ...string) *proc {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(logDir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	p := &proc{t: t, name: name, bin: bin, args: append(args, "--with-parent", "--log-level", "debug"), log: log, ready: make(chan string, 64)}
	require.NoError(t, p.start(env))
	return p
}

func (p *proc) start(env []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil // stop came between a death and this start
	}
	cmd := exec.Command(p.bin, p.args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = p.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.stopIn, p.wait = cmd, in, make(chan struct{})
	go p.watch(cmd, out, p.wait)
	return nil
}

// watch reads the ready line, waits for the end, and starts the daemon again.
func (p *proc) watch(cmd *exec.Cmd, out io.Reader, done chan struct{}) {
	dec := json.NewDecoder(out)
	for {
		var r struct{ Ready, URL string }
		if dec.Decode(&r) != nil {
			break
		}
		p.ready <- r.URL
	}
	cmd.Wait()
	close(done)
	p.mu.Lock()
	again := !p.ended
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL {
		p.deaths++
	}
	p.mu.Unlock()
	if again {
		time.Sleep(20 * time.Millisecond)
		p.start(nil)
	}
}

// waitReady returns the URL of the ready line.
func (p *proc) waitReady() string {
	p.t.Helper()
	select {
	case url := <-p.ready:
		return url
	case <-time.After(60 * time.Second):
		p.t.Fatalf("%s was not ready within a minute; log:\n%s", p.name, tailFile(p.log.Name(), 40))
		return ""
	}
}

// stop ends the daemon in order and waits for it.
func (p *proc) stop() {
	p.mu.Lock()
	p.ended = true
	in, wait, cmd := p.stopIn, p.wait, p.cmd
	p.mu.Unlock()
	io.WriteString(in, "stop")
	in.Close()
	select {
	case <-wait:
	case <-time.After(60 * time.Second):
		cmd.Process.Signal(syscall.SIGQUIT)
		<-wait
		p.t.Errorf("%s did not stop within a minute; log:\n%s", p.name, tailFile(p.log.Name(), 60))
	}
}

func (p *proc) kill() { p.mu.Lock(); defer p.mu.Unlock(); p.cmd.Process.Kill() }

func (p *proc) killed() int { p.mu.Lock(); defer p.mu.Unlock(); return p.deaths }

func tailFile(name string, lines int) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
