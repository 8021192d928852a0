package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// early is a fault before a job's first command.
type early struct {
	name      string
	give      func(d *degrading, c *api.Claim) // changes the claim
	harm      func(d *degrading)               // happens before the attach
	store     func() *storeFault
	code      api.Code // of a job that needs it
	workspace api.Code // of one that does not
	empty     bool     // an optional job's view can't be had either
	final     bool     // not the host's fault
}

// withInputs makes the store refuse a view that stands on something.
func withInputs(err error) func() *storeFault {
	return func() *storeFault {
		return &storeFault{prepare: func(p store.PrepareSpec) error {
			if len(p.Inputs) > 0 {
				return err
			}
			return nil
		}}
	}
}

func slowFetch(d *degrading) {
	d.f.edit(func() {
		d.f.down = func(m, p string) bool {
			if m == "GET" && strings.HasPrefix(p, "/v1/blobs/") {
				time.Sleep(1500 * time.Millisecond)
			}
			return false
		}
	})
}

var earlyFaults = []early{
	{
		name: "coordinator and blob store down", code: api.FailFetch, workspace: api.WorkspaceFault,
		harm: func(d *degrading) {
			d.f.edit(func() { d.f.down = func(string, string) bool { return true } })
		},
	},
	{
		name: "blob store down", code: api.FailFetch, workspace: api.WorkspaceFault,
		harm: func(d *degrading) {
			d.f.edit(func() { d.f.down = func(_, p string) bool { return strings.HasPrefix(p, "/v1/blobs/") } })
		},
	},
	{
		name: "fetch slower than its budget", code: api.FailFetch, workspace: api.WorkspaceFault,
		give: func(_ *degrading, c *api.Claim) { c.External.FetchBudgetMS = 300 }, harm: slowFetch,
	},
	{
		name: "corrupt layer", code: api.FailCorrupt, workspace: api.WorkspaceFault,
		store: func() *storeFault {
			return &storeFault{imported: &snapshot.CorruptError{What: "layer", Name: "n", Why: "flipped"}}
		},
	},
	{
		name: "no space for the fetch", code: api.FailDiskFull, workspace: api.WorkspaceFault,
		store: func() *storeFault { return &storeFault{imported: fmt.Errorf("write: %w", syscall.ENOSPC)} },
	},
	{
		name: "no space for the view", code: api.FailDiskFull, workspace: api.WorkspaceFault,
		store: withInputs(fmt.Errorf("mkdir: %w", syscall.ENOSPC)),
	},
	{
		name: "no quota for the view", code: api.FailDiskFull, workspace: api.WorkspaceFault,
		store: withInputs(fmt.Errorf("mkdir: %w", syscall.EDQUOT)),
	},
	{
		name: "mount refused", code: api.FailAttach, workspace: api.WorkspaceFault,
		store: withInputs(fmt.Errorf("mount: %w", syscall.EPERM)),
	},
	{
		name: "mount refused, also of an empty view", code: api.FailAttach, workspace: api.WorkspaceFault, empty: true,
		store: func() *storeFault {
			return &storeFault{prepare: func(store.PrepareSpec) error { return fmt.Errorf("mount: %w", syscall.EPERM) }}
		},
	},
	{
		name: "input lost", code: api.FailInput, workspace: api.WorkspaceLost,
		give: func(_ *degrading, c *api.Claim) { c.Inputs[0].Snapshot = newIDOf() },
	},
	{
		name: "merge conflict", code: api.FailConflict, workspace: api.WorkspaceConflict, final: true,
		give: func(d *degrading, c *api.Claim) { *c = from(*c, d.left) },
	},
}

// TestDegradationTable: each class of job meets each fault
// before its first command. An optional job starts in an empty directory and starts a
// new line; one that needs its workspace has nothing of it run.
func TestDegradationTable(t *testing.T) {
	for i, fault := range earlyFaults {
		for j, mode := range []string{modeOptional, "required"} {
			if testing.Short() && (i+j)%4 != 0 { // a sample
				continue
			}
			t.Run(mode+", "+fault.name, func(t *testing.T) {
				d := newDegrading(t)
				c := from(ext("job"), d.base)
				c.Job.Workspace.Mode = mode
				c.External.Contained = []string{"1base"}
				defer d.calm()
				if fault.give != nil {
					fault.give(d, &c)
				}
				at, g := d.claim(1, c)
				if fault.store != nil {
					d.store.fault.Store(fault.store())
				}
				if fault.harm != nil {
					fault.harm(d)
				}
				begin := time.Now()
				w, err := d.ag().Attach(t.Context(), g.Attempt, nil)
				require.Less(t, time.Since(begin), time.Minute)
				if mode == modeOptional {
					require.NoError(t, err)
					fault.startsAnew(d, at, w)
				} else {
					fault.fails(d, at, w, err)
				}
				d.end()
				requireNoViews(t, d.host)
			})
		}
	}
}

// fails checks the end of a job that needs its workspace and did not get it.
func (fault *early) fails(d *degrading, at *fakeAttempt, w *plugin.Workspace, err error) {
	t := d.t
	var coded *plugin.Error
	require.ErrorAs(t, err, &coded, "%+v", w)
	require.Equal(t, string(fault.code), coded.Code)
	require.NoDirExists(t, filepath.Join(d.host.store.Dir(), "slots", "1", wsName, "d"))
	d.calm()
	require.NoError(t, d.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: at.claim.Attempt, Outcome: plugin.OutcomeSystem}))
	fin := d.f.finished(at)
	require.Equal(t, api.StatusFailed, fin.Status)
	require.Equal(t, fault.code, fin.Code)
	require.Equal(t, !fault.final, fin.Infrastructure)
	require.False(t, fin.Undelivered)
	require.Nil(t, at.start, "nothing of it began")
}

// startsAnew checks the workspace and the end of a job that can do without one.
func (fault *early) startsAnew(d *degrading, at *fakeAttempt, w *plugin.Workspace) {
	t := d.t
	require.Equal(t, plugin.StateFresh, w.State)
	require.Equal(t, string(fault.workspace), w.Code)
	require.Empty(t, w.Contained, "what is not there has to be downloaded")
	require.Equal(t, "FRESH", w.Env["ROOST_WORKSPACE_STATE"])
	require.Equal(t, 1, strings.Count(strings.Join(w.Lines, "\n"), "WORKSPACE NOT AVAILABLE"), "%q", w.Lines)
	if fault.empty {
		require.Empty(t, w.View)
		require.Empty(t, w.Name)
	} else {
		left, err := os.ReadDir(w.View)
		require.NoError(t, err)
		require.Empty(t, left, "all or nothing")
		require.NoError(t, os.WriteFile(filepath.Join(w.View, "own"), nil, 0o644))
	}
	d.calm()
	require.False(t, d.seal(at).Failed)
	fin := d.f.green(at)
	require.Equal(t, fault.empty, fin.Output == "")
	require.Empty(t, fin.Parents, "a new line")
	require.Equal(t, api.StateFresh, fin.Workspace.State)
	require.Equal(t, fault.workspace, fin.Workspace.Code)
	require.Contains(t, d.f.logOf(at), "WORKSPACE NOT AVAILABLE")
}
