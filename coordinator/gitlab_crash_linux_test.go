//go:build failpoints

package coordinator

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
)

const (
	crashDir = "ROOST_GITLAB_CRASH_DIR"
	crashURL = "ROOST_GITLAB_CRASH_URL"
)

// TestGitLabCrashChild is a coordinator that dies.
func TestGitLabCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("runs in TestGitLabCrash")
	}
	s, err := Open(t.Context(), Options{Dir: dir, AgentToken: agentToken, UserToken: userToken, GitLabURLs: []string{os.Getenv(crashURL)}})
	require.NoError(t, err)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	os.Stdout.WriteString("url " + s.URL() + "\n") //nolint:errcheck // the parent reads it
	require.NoError(t, s.Run(ctx))
}

// died runs a coordinator with a host whose runner waits for a job, until it dies.
func died(t *testing.T, l *lab, child *exec.Cmd) {
	t.Helper()
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	child.Stderr = os.Stderr
	require.NoError(t, child.Start())
	url := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if u, ok := strings.CutPrefix(lines.Text(), "url "); ok {
			url = u
			break
		}
	}
	require.NotEmpty(t, url)
	c, err := api.NewClient(url, agentToken, nil)
	require.NoError(t, err)
	h := &host{b: &bench{t: t}, c: c, free: 1, reg: api.Register{
		Name: "host-b", StoreID: newID(t), Session: newID(t), BootID: "boot", Slots: 1, Driver: "copy",
		OS: "linux", Arch: "amd64", Fingerprint: "linux/amd64", Pool: l.pool(),
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if r, err := c.Register(ctx, h.reg); err == nil {
		h.id = r.Agent
		c.Claims(ctx, h.id, h.offers(10*time.Second)) //nolint:errcheck // it dies meanwhile
	}
	var ee *exec.ExitError
	require.ErrorAs(t, child.Wait(), &ee, "never reached")
	require.Equal(t, syscall.SIGKILL, ee.Sys().(syscall.WaitStatus).Signal())
}

// requeue is what the lab does with a job that nobody acknowledged in time.
func (l *lab) requeue(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.jobs[id].state = "pending"
	l.queue = append(l.queue, id)
}

// A coordinator that dies after it asked GitLab: before the job is stored it is lost to
// us, and GitLab gives it out again when nobody acknowledges it; afterwards it is
// there, once, however the coordinator died.
func TestGitLabCrash(t *testing.T) {
	for _, c := range []struct {
		point string
		kept  bool
	}{
		{"gitlab.received", false},
		{"coordinator.take", false},
		{"state.commit", false},
		{"state.committed", true},
		{"coordinator.take.committed", true},
	} {
		t.Run(c.point, func(t *testing.T) {
			l := newLab(t)
			dir := t.TempDir()
			b := newLabBench(t, l, func(o *Options) { o.Dir, o.AcceptTimeout = dir, 5*time.Second })
			b.stop()
			l.add(11, "build", "one")
			child := exec.Command("/proc/self/exe", "-test.run", "^TestGitLabCrashChild$")
			child.Env = append(os.Environ(), crashDir+"="+dir, crashURL+"="+l.http.URL)
			n := ":1"
			if c.point == "state.commit" || c.point == "state.committed" {
				n = ":2" // the registration of the host comes first
			}
			child.Env = append(child.Env, fail.Env+"="+c.point+n)
			died(t, l, child)

			b.start()
			h := b.newLabHost(l, "host-a", 1)
			if !c.kept {
				require.Empty(t, h.offer(200*time.Millisecond))
				require.Equal(t, 1, l.get(11).given)
				l.requeue(11)
			}
			cl := h.takes()
			require.Equal(t, "11", cl.External.ID)
			h.begin(cl)
			h.succeed(cl)
			require.Empty(t, h.offer(300*time.Millisecond))
			ps, err := b.user.Pipelines(t.Context(), "", 5)
			require.NoError(t, err)
			require.Len(t, ps, 1)
			p, err := b.user.Pipeline(t.Context(), ps[0].ID)
			require.NoError(t, err)
			require.Len(t, p.Jobs, 1, "the job is there once")
			require.Equal(t, api.StatusSuccess, p.Jobs[0].Status)
		})
	}
}
