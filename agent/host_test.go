package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/exec"
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
