package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

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

// blobs are the files of the blob store.
func (f *fleet) blobs() []string {
	list, err := filepath.Glob(filepath.Join(f.dir, "coordinator", "blobs", "??", "*"))
	require.NoError(f.t, err)
	return list
}

// waitUploaded waits until the blob store has so many blobs and the host has no pack any more.
func (f *fleet) waitUploaded(host string, blobs int) {
	f.t.Helper()
	require.Eventually(f.t, func() bool {
		packs, err := filepath.Glob(filepath.Join(f.dir, host, "packs", "*"))
		require.NoError(f.t, err)
		return len(f.blobs()) >= blobs && len(packs) == 0
	}, time.Minute, 20*time.Millisecond)
}

// config writes a configuration file for the agent of a host's store.
func (f *fleet) config(store string) (path string) {
	path = filepath.Join(f.dir, "roost.toml")
	text := fmt.Sprintf("[agent]\ncoordinator = %q\ntoken_file = %q\nstore_dir = %q\n", f.url, filepath.Join(f.dir, "coordinator", "agent.token"), store)
	require.NoError(f.t, os.WriteFile(path, []byte(text), 0o600))
	return path
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
