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
	"github.com/roost-ci/roost/snapshot/store"
)

// anew starts the agent of a degrading host anew, on a machine of that boot.
func (d *degrading) anew(boot string) {
	d.t.Helper()
	d.end()
	edit := d.edit
	d.edit = func(o *Options) {
		edit(o)
		o.BootID = boot
	}
	d.start()
}

// damage changes a byte of a layer's file behind the store's back, and has the store read
// its layers.
func (d *degrading) damage(id, name string) {
	d.t.Helper()
	found, err := filepath.Glob(filepath.Join(d.host.store.Dir(), "views", "*", "*", name))
	require.NoError(d.t, err)
	more, err := filepath.Glob(filepath.Join(d.host.store.Dir(), "views", "*", name))
	require.NoError(d.t, err)
	hit := 0
	for _, path := range append(found, more...) {
		if !strings.Contains(path, id) {
			continue
		}
		fi, err := os.Stat(path)
		require.NoError(d.t, err)
		b, err := os.ReadFile(path)
		require.NoError(d.t, err)
		b[0] ^= 0x10
		require.NoError(d.t, os.WriteFile(path, b, 0o644))
		require.NoError(d.t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
		hit++
	}
	require.Positive(d.t, hit, "the test looks at the wrong place")
	got, err := d.host.store.Scrub(d.t.Context(), store.ScrubOptions{})
	require.NoError(d.t, err)
	require.NotEmpty(d.t, got.Damages)
}

// late is a fault after a job's first command.
type late struct {
	name string
	harm func(d *degrading)
	code api.Code // of its failure; "": it goes on
	gone bool     // it has ended when the agent is there again
}

var lateFaults = []late{
	{
		name: "coordinator and blob store down",
		harm: func(d *degrading) {
			d.f.edit(func() { d.f.down = func(string, string) bool { return true } })
		},
	},
	{
		name: "blob store down",
		harm: func(d *degrading) {
			d.f.edit(func() { d.f.down = func(_, p string) bool { return strings.HasPrefix(p, "/v1/blobs/") } })
		},
	},
	{
		name: "mount refused",
		harm: func(d *degrading) {
			d.store.fault.Store(&storeFault{prepare: func(store.PrepareSpec) error { return fmt.Errorf("mount: %w", syscall.EPERM) }})
		},
	},
	{
		name: "no space",
		harm: func(d *degrading) {
			d.store.fault.Store(&storeFault{
				prepare: func(store.PrepareSpec) error { return syscall.ENOSPC }, imported: syscall.ENOSPC,
			})
		},
	},
	{
		name: "agent killed",
		harm: func(d *degrading) { d.anew("") },
	},
	{
		name: "machine started anew", code: api.FailAgentDied, gone: true,
		harm: func(d *degrading) { d.anew("another") },
	},
	{
		name: "corrupt layer", code: api.FailCorrupt,
		harm: func(d *degrading) {
			d.damage(string(d.base.claim.Attempt), "file")
		},
	},
	{
		name: "corrupt layer, and the agent killed", code: api.FailCorrupt,
		harm: func(d *degrading) {
			d.damage(string(d.base.claim.Attempt), "file")
			d.anew("")
		},
	},
}

// TestDegradationLater: each class of job meets each fault after its
// first command. It never becomes FRESH: either it goes on in the workspace that it has, or
// it fails as a system failure.
func TestDegradationLater(t *testing.T) {
	for i, fault := range lateFaults {
		for j, mode := range []string{modeOptional, "required"} {
			if testing.Short() && (i+j)%3 != 0 { // a sample
				continue
			}
			t.Run(mode+", "+fault.name, func(t *testing.T) {
				d := newDegrading(t)
				c := from(ext("job"), d.base)
				c.Job.Workspace.Mode = mode
				at, w := d.open(1, c)
				require.Equal(t, plugin.StateFull, w.State)
				require.NoError(t, os.WriteFile(filepath.Join(w.View, "own"), []byte("own"), 0o644)) // its first command
				defer d.calm()
				fault.harm(d)
				if fault.gone {
					d.f.finished(at)
				}
				again, err := d.ag().Attach(t.Context(), at.claim.Attempt, nil)
				if fault.gone {
					require.Error(t, err)
					require.NoDirExists(t, w.View, "nothing stands in for it")
				} else {
					require.NoError(t, err)
					require.Equal(t, w, again, "another workspace than before")
					fault.goesOn(d, at, w)
				}
				d.calm()
				fault.ends(d, at)
				d.end()
			})
		}
	}
}

// goesOn has the job go on in its workspace, and seals it.
func (fault *late) goesOn(d *degrading, at *fakeAttempt, w *plugin.Workspace) {
	t := d.t
	for name, want := range map[string]string{"own": "own", "d/x": "x\n"} {
		b, err := os.ReadFile(filepath.Join(w.View, name))
		require.NoError(t, err)
		require.Equal(t, want, string(b))
	}
	s, err := d.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: time.Minute})
	require.NoError(t, err)
	require.Equal(t, fault.code != "", s.Failed, "%+v", s)
	if s.Failed {
		require.NotEmpty(t, s.Reason)
		require.Contains(t, strings.Join(s.Lines, "\n"), "JOB FAILED")
	}
}

// ends checks what the coordinator has heard.
func (fault *late) ends(d *degrading, at *fakeAttempt) {
	t := d.t
	fin := d.f.finished(at)
	require.Equal(t, fault.code, fin.Code)
	require.Equal(t, fault.code != "", fin.Infrastructure)
	if fault.code == "" {
		require.Equal(t, api.StatusSuccess, fin.Status)
		require.Equal(t, at.claim.Attempt, fin.Output)
		require.Equal(t, api.StateFull, fin.Workspace.State)
	} else {
		require.Equal(t, api.StatusFailed, fin.Status)
		require.Empty(t, fin.Output)
	}
	require.NotContains(t, d.f.logOf(at), "FRESH")
}
