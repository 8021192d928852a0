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
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest/runner"
	"github.com/roost-ci/roost/internal/testenv"
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

// fleet is a coordinator and agents under test.
type fleet struct {
	t      testing.TB
	dir    string
	bin    string
	url    string
	coord  *proc
	agents map[string]*proc
	client *api.Client
	// agentArgs are flags of all agents.
	agentArgs []string
}

// newFleet starts a coordinator and agents named host-a, host-b, ….
func newFleet(t testing.TB, bin string, hosts int, agentArgs ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, dir: stateDir(t), bin: bin, agents: map[string]*proc{}, agentArgs: agentArgs}
	f.startCoordinator(nil)
	t.Cleanup(f.stop)
	for i := range hosts {
		f.startAgent(fmt.Sprintf("host-%c", 'a'+i), nil)
	}
	for _, a := range f.agents {
		a.waitReady()
	}
	return f
}

func (f *fleet) startCoordinator(env []string, more ...string) {
	listen := testenv.Addr(f.t)
	if f.url != "" {
		listen = strings.TrimPrefix(f.url, "http://")
	}
	args := append([]string{
		"coordinator", "--state-dir", filepath.Join(f.dir, "coordinator"), "--listen", listen, "--local-source",
	}, more...)
	f.coord = launch(f.t, f.bin, f.dir, "coordinator", env, args...)
	if len(env) > 0 {
		return // it may die before it is ready
	}
	f.url = f.coord.waitReady()
	for i, a := range f.coord.args {
		if a == "--listen" {
			f.coord.args[i+1] = strings.TrimPrefix(f.url, "http://")
		}
	}
	token, err := os.ReadFile(filepath.Join(f.dir, "coordinator", "user.token"))
	require.NoError(f.t, err)
	f.client, err = api.NewClient(f.url, strings.TrimSpace(string(token)), nil)
	require.NoError(f.t, err)
}

func (f *fleet) startAgent(name string, env []string) {
	args := append([]string{
		"agent", "--name", name, "--tags", name, "--coordinator", f.url, "--slots", "2",
		"--token-file", filepath.Join(f.dir, "coordinator", "agent.token"),
		"--store-dir", filepath.Join(f.dir, name),
	}, f.agentArgs...)
	f.agents[name] = launch(f.t, f.bin, f.dir, name, env, args...)
}

func (f *fleet) stop() {
	for _, a := range f.agents {
		a.stop()
	}
	f.agents = map[string]*proc{}
	if f.coord != nil {
		f.coord.stop()
		f.coord = nil
	}
}

// run submits a pipeline and waits for its end.
func (f *fleet) run(project, text string) *api.Pipeline {
	f.t.Helper()
	return f.wait(f.submit(project, text))
}

func (f *fleet) submit(project, text string) string {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	key := ulid.Make().String()
	for {
		sub, err := f.client.Submit(ctx, key, api.Submit{Project: project, File: "test.yml", Text: text})
		if err == nil {
			return sub.ID
		}
		if !api.Unreachable(err) || ctx.Err() != nil {
			f.t.Fatalf("submit: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (f *fleet) wait(id string) *api.Pipeline {
	f.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	var last string
	for time.Now().Before(deadline) {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		p, err := f.client.Pipeline(ctx, id)
		cancel()
		if err == nil && p.Status.Ended() {
			return p
		}
		if err != nil && !api.Unreachable(err) {
			f.t.Fatalf("pipeline %s: %v", id, err)
		}
		if err == nil {
			b, _ := json.MarshalIndent(p.Jobs, "", " ")
			last = string(b)
		}
		time.Sleep(30 * time.Millisecond)
	}
	f.t.Fatalf("pipeline %s did not end in two minutes:\n%s\ncoordinator:\n%s", id, last, tailFile(f.coord.log.Name(), 30))
	return nil
}

// log returns the whole log of a job's newest attempt.
func (f *fleet) log(j *api.Job) string {
	f.t.Helper()
	var out bytes.Buffer
	for off := int64(0); ; {
		c, err := f.client.Log(f.t.Context(), j.AttemptID, off, 0)
		require.NoError(f.t, err)
		out.Write(c.Data)
		if off = c.Next; len(c.Data) == 0 {
			return out.String()
		}
	}
}

func job(t testing.TB, p *api.Pipeline, name string) *api.Job {
	t.Helper()
	for i := range p.Jobs {
		if p.Jobs[i].Name == name {
			return &p.Jobs[i]
		}
	}
	t.Fatalf("pipeline has no job %q", name)
	return nil
}

// requireSuccess fails with the logs of what failed.
func (f *fleet) requireSuccess(p *api.Pipeline) {
	f.t.Helper()
	if p.Status == api.StatusSuccess {
		return
	}
	var b strings.Builder
	for i := range p.Jobs {
		j := &p.Jobs[i]
		fmt.Fprintf(&b, "%s: %s on %s (%s) %s\n", j.Name, j.Status, j.Host, j.Code, j.Reason)
		if j.Status == api.StatusFailed && j.AttemptID != "" {
			b.WriteString(f.log(j))
		}
	}
	f.t.Fatalf("pipeline %d: %s\n%s", p.Number, p.Status, b.String())
}

// mountsBelow lists mount points below dir.
func mountsBelow(t testing.TB, dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	var out []string
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) > 4 && (f[4] == dir || strings.HasPrefix(f[4], dir+"/")) {
			out = append(out, f[4])
		}
	}
	return out
}

// processesOf lists processes whose command line or environment names marker.
func processesOf(t testing.TB, marker string) []string {
	var out []string
	dirs, err := filepath.Glob("/proc/[0-9]*")
	require.NoError(t, err)
	for _, d := range dirs {
		if filepath.Base(d) == strconv.Itoa(os.Getpid()) {
			continue
		}
		cmd, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		env, _ := os.ReadFile(filepath.Join(d, "environ"))
		if bytes.Contains(cmd, []byte(marker)) || bytes.Contains(env, []byte(marker)) {
			out = append(out, filepath.Base(d)+" "+strings.ReplaceAll(string(cmd), "\x00", " "))
		}
	}
	return out
}
