package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer/blob"
)

func TestMain(m *testing.M) {
	exec.MaybeChild()
	playVictim()
	os.Exit(m.Run())
}

// host is a machine with a store, on which agents come and go.
type host struct {
	t      *testing.T
	f      *fake
	name   string
	dir    string
	driver string
	edit   func(*Options)
	wrap   func(plugin.Adapter) plugin.Adapter
	plugin *fakePlugin
	tune   func(*Agent)
	opts   func(*store.Options)

	store *store.Store
	stop  context.CancelFunc
	done  chan error
}

func newHost(t *testing.T, f *fake, name string) *host {
	testenv.Require(t, testenv.Bash)
	h := &host{t: t, f: f, name: name, dir: filepath.Join(t.TempDir(), name), driver: view.NameCopy}
	t.Cleanup(func() { h.end() })
	return h
}

// start opens the store and runs an agent on it.
func (h *host) start() *host {
	h.t.Helper()
	log := hclog.New(&hclog.LoggerOptions{Name: h.name, Output: h.t.Output(), Level: hclog.Debug})
	o := h.storeOptions()
	o.Log = log
	if h.opts != nil {
		h.opts(&o)
	}
	st, err := store.Open(h.t.Context(), filepath.Join(h.dir, "store"), o)
	require.NoError(h.t, err)
	h.store = st
	var ad plugin.Adapter
	if h.plugin == nil {
		ad, err = exec.New(exec.Options{StateDir: filepath.Join(h.dir, "exec"), Log: log})
		require.NoError(h.t, err)
	}
	if h.wrap != nil {
		ad = h.wrap(ad)
	}
	c := h.f.client()
	op := Options{
		Name: h.name, Slots: 2, Coordinator: c, Store: st, Adapter: ad,
		Blobs: blob.NewHTTP(c.BlobsURL(), c.Token, nil), Grace: time.Second, DrainTimeout: 10 * time.Second, Log: log,
	}
	if h.plugin != nil {
		op.Plugin, op.Pool = h.plugin.on, &api.Pool{System: api.SystemGitLab, Name: "pool"}
	}
	if h.edit != nil {
		h.edit(&op)
	}
	a, err := New(op)
	require.NoError(h.t, err)
	if h.tune != nil {
		h.tune(a)
	}
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // ends before the test's own, by end
	h.stop, h.done = cancel, make(chan error, 1)
	go func() { h.done <- a.Run(ctx) }()
	return h
}

func (h *host) storeOptions() store.Options {
	root := os.Geteuid() == 0
	return store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(h.driver, dir, view.Options{Owners: root})
		},
		Owners: root, ReserveBytes: 1 << 20,
	}
}

// end stops the agent and closes the store.
func (h *host) end() {
	h.t.Helper()
	if h.stop == nil {
		return
	}
	h.stop()
	select {
	case err := <-h.done:
		if err != nil {
			h.t.Errorf("agent %s: %v", h.name, err)
		}
	case <-time.After(60 * time.Second):
		h.t.Fatalf("agent %s does not stop", h.name)
	}
	h.stop = nil
	require.NoError(h.t, h.store.Close())
}

// job makes a claim of a script.
func job(name string, script ...string) api.Claim {
	return api.Claim{Job: api.JobSpec{
		Name: name, Stage: "stage", Script: script,
		Workspace: api.WorkspaceSpec{Commit: "on_success", Mode: "required", OnConflict: "error"},
	}}
}

// from makes a claim start from the output of attempts.
func from(c api.Claim, as ...*fakeAttempt) api.Claim {
	for _, a := range as {
		c.Inputs = append(c.Inputs, api.Input{Job: a.claim.Job.Name, Snapshot: a.finish.Output})
	}
	return c
}

func (f *fake) green(a *fakeAttempt) api.Finish {
	f.t.Helper()
	fin := f.finished(a)
	require.Equal(f.t, api.StatusSuccess, fin.Status, "%+v\n%s", fin, f.logOf(a))
	return fin
}

func drivers(t *testing.T, test func(t *testing.T, driver string)) {
	for _, d := range []string{view.NameCopy, view.NameOverlay, view.NameErofs} {
		t.Run(d, func(t *testing.T) {
			if d != view.NameCopy {
				testenv.Require(t, testenv.Overlay)
			}
			test(t, d)
		})
	}
}

// TestChain runs build, then a fan-out and a fan-in on the same host, then a job
// on another host that has to fetch everything.
func TestChain(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		a, b := newHost(t, f, "a"), newHost(t, f, "b")
		a.driver, b.driver = driver, driver
		a.start()
		b.start()

		build := f.give("a", job("build", "mkdir out; head -c 300000 /dev/urandom > out/bin; echo src > src", "echo $ROOST_WORKSPACE_STATE/$ROOST_WORKSPACE_ORIGIN"))
		fin := f.green(build)
		require.Equal(t, build.claim.Attempt, fin.Output)
		require.Empty(t, fin.Parents)
		require.Equal(t, api.StateFresh, fin.Workspace.State)
		require.Contains(t, f.logOf(build), "\nFRESH/none\n")
		require.Contains(t, f.logOf(build), "roost: workspace FRESH")

		x := f.give("a", from(job("x", "echo x > x; sha256sum out/bin"), build))
		y := f.give("a", from(job("y", "echo y > y; test ! -e x"), build))
		fx, fy := f.green(x), f.green(y)
		require.Equal(t, []snapshot.ID{build.finish.Output}, fx.Parents)
		w := fx.Workspace
		require.Equal(t, []string{api.StateFull, api.OriginParent, api.SourceLocal}, []string{w.State, w.Origin, w.Source})
		require.InDelta(t, 300004, w.BytesNeeded, 10)
		if driver != view.NameCopy {
			require.Zero(t, w.BytesMoved)
			require.Zero(t, w.BytesWritten)
		}
		require.Greater(t, w.AttachMS, 0.0)
		require.Greater(t, w.SealMS, 0.0)
		require.Greater(t, fy.Workspace.SealMS, 0.0)

		// Another host, when all is in the blob store.
		for _, at := range []*fakeAttempt{build, x, y} {
			f.durable(at.finish.Output)
		}
		join := f.give("b", from(job("join", "cat x y src; sha256sum out/bin"), x, y))
		fj := f.green(join)
		require.Equal(t, api.StateFull, fj.Workspace.State)
		require.Equal(t, api.SourceStore, fj.Workspace.Source)
		require.Greater(t, fj.Workspace.BytesMoved, int64(300000))
		require.Contains(t, f.logOf(join), "\nx\ny\nsrc\n")
		sum := func(at *fakeAttempt) string {
			for _, l := range strings.Split(f.logOf(at), "\n") {
				if strings.HasSuffix(l, "out/bin") && !strings.HasPrefix(l, "\x1b") {
					return l
				}
			}
			return ""
		}
		require.NotEmpty(t, sum(x))
		require.Equal(t, sum(x), sum(join))
		f.wait("holdings of b", func() bool { return f.agents["b"].holdings[build.finish.Output] })

		// Now b has it all.
		again := f.give("b", from(job("again", "cat x y"), join))
		fa := f.green(again)
		require.Equal(t, api.SourceLocal, fa.Workspace.Source)
		if driver != view.NameCopy {
			require.Zero(t, fa.Workspace.BytesMoved)
		}
		f.durable(again.finish.Output)
	})
}

func TestEndings(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	base := f.give("a", job("base", "echo b > b"))
	f.green(base)
	for _, tc := range []struct {
		name   string
		claim  api.Claim
		status api.Status
		code   api.Code
		output bool
		says   string
	}{
		{"fails", job("fails", "echo x > x; exit 3"), api.StatusFailed, api.FailScript, false, "exit code 3"},
		{"never", with(job("never", "echo x > x"), func(w *api.WorkspaceSpec) { w.Commit = "never" }), api.StatusSuccess, api.SealNever, false, ""},
		{"changed", from(with(job("changed", "echo x > x"), func(w *api.WorkspaceSpec) { w.Commit = "if-changed" }), base), api.StatusSuccess, "", true, ""},
		{"unchanged", from(with(job("unchanged", "cat b"), func(w *api.WorkspaceSpec) { w.Commit = "if-changed" }), base), api.StatusSuccess, api.SealUnchanged, false, ""},
		{"unchanged but for a file that came and went", from(with(job("came", "touch t; rm t"), func(w *api.WorkspaceSpec) { w.Commit = "if-changed" }), base), api.StatusSuccess, api.SealUnchanged, false, ""},
		{"disabled", from(with(job("disabled", "test ! -e b; touch x"), func(w *api.WorkspaceSpec) { w.Disabled = true }), base), api.StatusSuccess, api.WorkspaceDisabled, false, ""},
		{"timeout", timed(job("timeout", "sleep 100"), 200*time.Millisecond), api.StatusFailed, api.FailTimeout, false, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			at := f.give("a", tc.claim)
			fin := f.finished(at)
			require.Equal(t, tc.status, fin.Status, f.logOf(at))
			require.Equal(t, tc.code, fin.Code)
			require.Equal(t, tc.output, fin.Output != "")
			require.False(t, fin.Infrastructure)
			require.Contains(t, fin.Reason, tc.says)
			if tc.status == api.StatusFailed {
				require.Contains(t, f.logOf(at), "roost: job failed ["+string(tc.code)+"]")
			}
		})
	}
	h.end()
	requireNoViews(t, h)
	require.True(t, f.agents["a"].left)
}

func with(c api.Claim, edit func(*api.WorkspaceSpec)) api.Claim {
	edit(&c.Job.Workspace)
	return c
}

func timed(c api.Claim, d time.Duration) api.Claim {
	c.Job.TimeoutMS = d.Milliseconds()
	return c
}

// requireNoViews reopens a host's store and looks for what nobody let go.
func requireNoViews(t *testing.T, h *host) {
	t.Helper()
	st, err := store.Open(t.Context(), filepath.Join(h.dir, "store"), store.Options{
		Driver: func(dir string) (view.Driver, error) {
			return view.Open(h.driver, dir, view.Options{Owners: os.Geteuid() == 0})
		}, ReserveBytes: 1 << 20,
	})
	require.NoError(t, err)
	require.Empty(t, st.Views())
	require.NoError(t, st.Close())
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil {
		require.NotContains(t, string(mounts), h.dir)
	}
	logs, err := os.ReadDir(filepath.Join(h.dir, "store", "logs"))
	require.NoError(t, err)
	require.Empty(t, logs)
}

func TestMergeConflict(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	base := f.give("a", job("base", "echo 0 > file"))
	f.green(base)
	x, y := f.give("a", from(job("x", "echo x > file"), base)), f.give("a", from(job("y", "echo yy > file"), base))
	f.green(x)
	f.green(y)
	for _, mode := range []string{"required", "optional"} {
		c := f.give("a", with(from(job("child", "touch ran"), x, y), func(w *api.WorkspaceSpec) { w.Mode = mode }))
		fin := f.finished(c)
		require.Equal(t, api.StatusFailed, fin.Status)
		require.Equal(t, api.FailConflict, fin.Code)
		require.False(t, fin.Infrastructure, "a conflict is not tried again")
		require.Nil(t, c.start)
		require.Contains(t, fin.Reason, "file")
		require.Contains(t, f.logOf(c), `merge conflict at "file": modify/modify by "x" and "y"`)
	}
	ok := f.give("a", with(from(job("ordered", "cat file"), y, x), func(w *api.WorkspaceSpec) { w.OnConflict = "order" }))
	f.green(ok)
	require.Contains(t, f.logOf(ok), "\nyy\n")
}

// TestDegradation: FULL or FRESH, and who gets which.
func TestDegradation(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	ghost := api.Input{Job: "gone", Snapshot: newID(t)}
	for _, tc := range []struct {
		name, mode, origin string
		fresh              bool
		code               api.Code
	}{
		{"required", "required", api.OriginParent, false, api.FailInput},
		{"optional", "optional", api.OriginParent, true, api.WorkspaceLost},
		{"seed", "required", api.OriginSeed, true, api.WorkspaceSeedGone},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := with(job("child", "test -z \"$(ls)\"", "echo state=$ROOST_WORKSPACE_STATE"), func(w *api.WorkspaceSpec) { w.Mode = tc.mode })
			c.Origin, c.Inputs = tc.origin, []api.Input{ghost}
			at := f.give("a", c)
			fin := f.finished(at)
			if !tc.fresh {
				require.Equal(t, api.StatusFailed, fin.Status)
				require.True(t, fin.Infrastructure)
				require.Equal(t, tc.code, fin.Code)
				require.Contains(t, fin.Reason, string(ghost.Snapshot))
				require.Nil(t, at.start, "the script must not start")
				return
			}
			require.Equal(t, api.StatusSuccess, fin.Status, f.logOf(at))
			require.Equal(t, api.StateFresh, fin.Workspace.State)
			require.Equal(t, tc.code, fin.Workspace.Code)
			require.Empty(t, fin.Parents)
			require.Empty(t, fin.Workspace.Inputs)
			require.Contains(t, f.logOf(at), "\nstate=FRESH\n")
			require.Contains(t, f.logOf(at), "WORKSPACE NOT AVAILABLE")
		})
	}
}

func TestCancelAndFence(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	f.edit(func() { at.cancel = true })
	fin := f.finished(at)
	require.Equal(t, api.StatusCanceled, fin.Status)
	require.Empty(t, fin.Output)

	ff := f.give("a", job("fenced", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(ff.log), "\nup\n") })
	f.edit(func() { ff.fenced = true })
	// Its slot is free again, and nothing was reported.
	next := []*fakeAttempt{f.give("a", job("n1", "sleep 0.3")), f.give("a", job("n2", "sleep 0.3"))}
	for _, n := range next {
		f.green(n)
	}
	require.Nil(t, ff.finish)
	h.end()
	requireNoViews(t, h)
}

// TestFencedOutput: the coordinator gave the job away while it was being sealed.
// Its output is kept and not sent anywhere.
func TestFencedOutput(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":finish") } })
	at := f.give("a", job("late", "echo x > x"))
	require.Eventually(t, func() bool { return f.called(":finish") > 0 }, time.Minute, 5*time.Millisecond)
	f.edit(func() { at.fenced, f.down = true, nil })
	require.Eventually(t, func() bool { return len(h.store.Views()) == 0 }, time.Minute, 10*time.Millisecond)
	_, err := h.store.Lookup(at.claim.Attempt)
	require.NoError(t, err)
	require.Zero(t, f.called("PUT", "/v1/snapshots"))
}

// TestLeaseLost: a host that the coordinator does not hear stops its jobs before
// they can be given to others.
func TestLeaseLost(t *testing.T) {
	f := newFake(t)
	f.lease = 4 * time.Second // long enough to be renewed on a busy machine
	newHost(t, f, "a").start()
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	begin := time.Now()
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, ":heartbeat") } })
	fin := f.finished(at)
	require.Less(t, time.Since(begin), 50*time.Second) // not the job's 100
	require.True(t, fin.Infrastructure)
	require.Equal(t, api.FailHostLost, fin.Code)
	// No work is taken meanwhile; when the lease is back it goes on.
	n := f.give("a", job("next", "true"))
	time.Sleep(500 * time.Millisecond)
	f.edit(func() { require.False(t, n.accepted); f.down = nil })
	f.green(n)
}

// TestCoordinatorRestarts: it forgets its agents and is away for a while; the job
// runs on, its log is whole, its end is reported.
func TestCoordinatorRestarts(t *testing.T) {
	f := newFake(t)
	f.lease = 30 * time.Second
	newHost(t, f, "a").start()
	at := f.give("a", job("long", "for i in $(seq 1 40); do echo line $i; sleep 0.02; done", "echo x > x"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "line 3\n") })
	f.edit(func() { f.down = func(_, p string) bool { return !strings.HasPrefix(p, "/v1/blobs") } })
	time.Sleep(1500 * time.Millisecond)
	f.edit(func() { f.down, f.agents = nil, map[string]*fakeAgent{} })
	f.green(at)
	log := f.logOf(at)
	for i := 1; i <= 40; i++ {
		require.Contains(t, log, fmt.Sprintf("\nline %d\n", i))
	}
	require.True(t, strings.HasSuffix(log, "\n"))
	f.durable(at.finish.Output)
	f.wait("registration", func() bool { return f.agents["a"] != nil })
}

func TestNameTaken(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	f.wait("registration", func() bool { return f.agents["a"] != nil })
	b := newHost(t, f, "a")
	b.dir = filepath.Join(t.TempDir(), "other")
	b.start()
	err := <-b.done
	b.stop()
	b.stop = nil
	require.ErrorIs(t, err, &api.Error{Code: api.CodeNameTaken})
	require.Contains(t, err.Error(), `"a" belongs to another agent`)
	require.NoError(t, b.store.Close())
}

// TestShutdown stops an agent during a job: the job is given back, and what was
// sealed before is uploaded.
func TestShutdown(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	done := f.give("a", job("done", "head -c 2000000 /dev/urandom > big"))
	f.green(done)
	at := f.give("a", job("long", "echo up", "sleep 100"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "\nup\n") })
	begin := time.Now()
	h.end()
	require.Less(t, time.Since(begin), 50*time.Second) // not the job's 100
	require.NotNil(t, at.finish)
	require.True(t, at.finish.Infrastructure)
	require.Equal(t, api.FailAgentDied, at.finish.Code)
	require.True(t, f.layers[done.finish.Output].Durable)
	requireNoViews(t, h)
}

func TestEnvironment(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	c := job("test 2/5", "env | grep -E '^(CI|ROOST|GITLAB|MINE)' | sort; pwd")
	c.Job.Index, c.Job.Total, c.Job.Variables = 2, 5, map[string]string{"MINE": "v", "CI_NODE_TOTAL": "9"}
	at := f.give("a", c)
	f.green(at)
	log := f.logOf(at)
	for _, want := range []string{
		"CI=true", "CI_JOB_NAME=test 2/5", "CI_JOB_STAGE=stage", "CI_NODE_INDEX=2", "CI_NODE_TOTAL=9", "CI_PIPELINE_ID=7",
		"CI_PROJECT_NAME=project", "MINE=v", "ROOST=true", "ROOST_HOST=a", "ROOST_INDEX=2", "ROOST_PIPELINE_ID=01PIPELINE",
		"ROOST_WORKSPACE_STATE=FRESH", "ROOST_WORKSPACE_ORIGIN=none", "CI_JOB_ID=" + string(at.claim.Attempt),
	} {
		require.Contains(t, log, "\n"+want+"\n")
	}
	require.NotContains(t, log, "GITLAB_CI")
	dir := ""
	for _, l := range strings.Split(log, "\n") {
		if d, ok := strings.CutPrefix(l, "CI_PROJECT_DIR="); ok {
			dir = d
		}
	}
	require.Contains(t, log, "\n"+dir+"\n")
	require.NotContains(t, log, "attempt-token")
	require.NotContains(t, log, "a-token")
}

func TestSlug(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range []string{"", "a", "A", "../../etc", "https://example.org/Group/Project.git", "x/..", strings.Repeat("long", 100), "übung", "a b"} {
		s := slug(p)
		require.Regexp(t, `^[a-z0-9][a-z0-9-]{0,60}$`, s)
		require.False(t, seen[s], s)
		seen[s] = true
	}
	require.True(t, strings.HasPrefix(slug("https://example.org/Group/Project.git"), "https-example-org-group-project-git-"))
}
