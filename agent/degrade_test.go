package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// faultyStore is a store in which the test makes calls fail.
type faultyStore struct {
	*store.Store
	fault atomic.Pointer[storeFault]
}

type storeFault struct {
	prepare  func(p store.PrepareSpec) error
	imported error
	seal     error
}

func (s *faultyStore) at() *storeFault {
	if f := s.fault.Load(); f != nil {
		return f
	}
	return &storeFault{}
}

func (s *faultyStore) Prepare(ctx context.Context, p store.PrepareSpec) (*store.Attached, error) {
	if fn := s.at().prepare; fn != nil {
		if err := fn(p); err != nil {
			return nil, err
		}
	}
	return s.Store.Prepare(ctx, p)
}

func (s *faultyStore) ImportChain(ctx context.Context, chain []store.ImportSpec, open store.OpenBlobFunc, m *view.Meter) error {
	if err := s.at().imported; err != nil {
		return err
	}
	return s.Store.ImportChain(ctx, chain, open, m)
}

func (s *faultyStore) Seal(ctx context.Context, id snapshot.ID, outcome []byte) (store.Info, error) {
	if err := s.at().seal; err != nil {
		return store.Info{}, err
	}
	return s.Store.Seal(ctx, id, outcome)
}

// degrading is a host whose jobs have to fetch, and that faults.
type degrading struct {
	*host
	store *faultyStore
	base  *fakeAttempt // made and uploaded by another host
	left  *fakeAttempt // in conflict with it
}

func newDegrading(t *testing.T) *degrading {
	f := newFake(t)
	b := newHost(t, f, "b").start()
	d := &degrading{base: f.give("b", job("base", "echo base > file; mkdir d; echo x > d/x"))}
	f.green(d.base)
	d.left = f.give("b", job("left", "echo other > file"))
	f.green(d.left)
	f.durable(d.base.finish.Output)
	f.durable(d.left.finish.Output)
	b.end()
	d.host = guestHost(t, f)
	d.edit = func(o *Options) {
		d.store = &faultyStore{Store: o.Store.(*store.Store)}
		o.Store = d.store
	}
	d.tune = func(a *Agent) { a.budgetDown, a.tellWait = 600*time.Millisecond, 600*time.Millisecond }
	d.start()
	return d
}

// TestDegradationTable: each class of job meets each fault
// before its first command. An optional job starts in an empty directory and starts a
// new line; one that needs its workspace has nothing of it run.
func TestDegradationTable(t *testing.T) {
	firstOnly := func(err error) func() *storeFault {
		return func() *storeFault {
			return &storeFault{prepare: func(p store.PrepareSpec) error {
				if len(p.Inputs) > 0 {
					return err
				}
				return nil
			}}
		}
	}
	slow := func(d *degrading) {
		d.f.edit(func() {
			d.f.down = func(m, p string) bool {
				if m == "GET" && strings.HasPrefix(p, "/v1/blobs/") {
					time.Sleep(1500 * time.Millisecond)
				}
				return false
			}
		})
	}
	for i, fault := range []struct {
		name      string
		give      func(d *degrading, c *api.Claim) // changes the claim
		harm      func(d *degrading)               // happens before the attach
		store     func() *storeFault
		code      api.Code // of a job that needs it
		workspace api.Code // of one that does not
		empty     bool     // an optional job's view can't be had either
		final     bool     // not the host's fault
	}{
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
			give: func(_ *degrading, c *api.Claim) { c.External.FetchBudgetMS = 300 }, harm: slow,
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
			store: firstOnly(fmt.Errorf("mkdir: %w", syscall.ENOSPC)),
		},
		{
			name: "mount refused", code: api.FailAttach, workspace: api.WorkspaceFault,
			store: firstOnly(fmt.Errorf("mount: %w", syscall.EPERM)),
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
	} {
		for j, mode := range []string{modeOptional, "required"} {
			if testing.Short() && (i+j)%4 != 0 { // a sample
				continue
			}
			t.Run(mode+", "+fault.name, func(t *testing.T) {
				d := newDegrading(t)
				c := from(ext("job"), d.base)
				c.Job.Workspace.Mode = mode
				c.External.Contained = []string{"1base"}
				calm := func() {
					d.f.edit(func() { d.f.down = nil })
					d.store.fault.Store(nil)
				}
				defer calm()
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
				if mode != modeOptional {
					var coded *plugin.Error
					require.ErrorAs(t, err, &coded, "%+v", w)
					require.Equal(t, string(fault.code), coded.Code)
					require.NoDirExists(t, filepath.Join(d.host.store.Dir(), "slots", "1", wsName, "d"))
					calm()
					require.NoError(t, d.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeSystem}))
					fin := d.f.finished(at)
					require.Equal(t, api.StatusFailed, fin.Status)
					require.Equal(t, fault.code, fin.Code)
					require.Equal(t, !fault.final, fin.Infrastructure)
					require.False(t, fin.Undelivered)
					require.Nil(t, at.start, "nothing of it began")
					d.end()
					requireNoViews(t, d.host)
					return
				}
				require.NoError(t, err)
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
				calm()
				s := d.seal(at)
				require.False(t, s.Failed)
				fin := d.f.green(at)
				require.Equal(t, fault.empty, fin.Output == "")
				require.Empty(t, fin.Parents, "a new line")
				require.Equal(t, api.StateFresh, fin.Workspace.State)
				require.Equal(t, fault.workspace, fin.Workspace.Code)
				require.Contains(t, d.f.logOf(at), "WORKSPACE NOT AVAILABLE")
				d.end()
				requireNoViews(t, d.host)
			})
		}
	}
}

func newIDOf() snapshot.ID { return snapshot.ID(strings.Repeat("z", 26)) }

// TestDegradationAfter: each durability meets each fault after the last
// command. What was promised no more than locally stays green, without an output;
// what was promised to be durable fails.
func TestDegradationAfter(t *testing.T) {
	broken := errors.New("the disk is gone")
	for i, fault := range []struct {
		name   string
		leave  func(t *testing.T, view string)
		store  *storeFault
		down   func(m, p string) bool
		code   api.Code
		failed map[string]bool
		output bool // of those that don't fail
	}{
		{
			name: "none", failed: map[string]bool{}, output: true,
		},
		{
			name: "seal", store: &storeFault{seal: broken}, code: api.SealFailed,
			failed: map[string]bool{"synced": true, "durable": true},
		},
		{
			name: "what can't be sealed", code: api.SealUnsupported,
			leave:  func(t *testing.T, v string) { require.NoError(t, makeDevice(filepath.Join(v, "dev"))) },
			failed: map[string]bool{"synced": true, "durable": true},
		},
		{
			name: "upload", down: func(m, p string) bool { return m == "PUT" && strings.HasPrefix(p, "/v1/blobs") }, output: true,
			failed: map[string]bool{"durable": true},
		},
	} {
		for j, durability := range []string{"local", "synced", "durable"} {
			if testing.Short() && (i+j)%3 != 0 { // a sample
				continue
			}
			t.Run(durability+", "+fault.name, func(t *testing.T) {
				if fault.code == api.SealUnsupported {
					testenv.Require(t, testenv.Root) // to make a device
				}
				d := newDegrading(t)
				c := ext("job")
				c.External.Durability = durability
				at, w := d.open(1, c)
				require.NoError(t, os.WriteFile(filepath.Join(w.View, "out"), []byte("out"), 0o644))
				if fault.leave != nil {
					fault.leave(t, w.View)
				}
				d.store.fault.Store(fault.store)
				d.f.edit(func() { d.f.down = fault.down })
				defer d.f.edit(func() { d.f.down = nil })
				s, err := d.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: 2 * time.Second})
				require.NoError(t, err)
				fin := d.f.finished(at)
				require.Equal(t, s.Output, fin.Output)
				if fault.failed[durability] {
					require.True(t, s.Failed)
					require.NotEmpty(t, s.Reason)
					require.Empty(t, s.Output)
					require.Equal(t, api.StatusFailed, fin.Status)
					require.Equal(t, api.FailDurable, fin.Code)
					require.True(t, fin.Infrastructure)
					require.Contains(t, strings.Join(s.Lines, "\n"), "JOB FAILED")
				} else {
					require.False(t, s.Failed, s.Reason)
					require.Equal(t, api.StatusSuccess, fin.Status)
					require.Equal(t, fault.output, s.Output != "")
					require.Equal(t, fault.code, fin.Code)
					if durability == "durable" {
						require.True(t, d.f.layers[s.Output].Durable)
					}
				}
				d.f.edit(func() { d.f.down = nil })
				d.end()
				requireNoViews(t, d.host)
			})
		}
	}
}
