package agent

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestChain runs build, then a fan-out and a fan-in on the same host, then a job
// on another host that has to fetch everything.
func TestChain(t *testing.T) {
	t.Parallel()
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
