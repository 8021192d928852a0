//go:build failpoints && linux

package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// fetchPoints are the steps of a fetch, in their order, and whether what was fetched is
// held after them, and outlives the kernel.
var fetchPoints = []struct {
	name         string
	held, synced bool
}{
	{"view.unpack.names", false, false},
	{"view.unpack.filled", false, false},
	{"store.import.unpacked", false, false},
	{"store.import.written", false, false},
	{"store.import.row", true, false},
	{"agent.imported", true, false},
	{"agent.fetched", true, false},
	{"store.synced", true, false},
	{"store.sync.row", true, true},
}

// TestFetchKilledAtPoints kills the agent at each step of a fetch of a line. The next one
// finds all of it or nothing: all, if the kernel is the same, and after a power cut only
// if it was synced. Whatever it finds, the job that wants it gets it.
func TestFetchKilledAtPoints(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	f := newFake(t)
	made := line(t, f, 3)
	tip := made[2].finish.Output
	for _, p := range fetchPoints {
		for _, boot := range []string{"", "another"} {
			t.Run(p.name+"/"+map[bool]string{true: "same boot", false: "power cut"}[boot == ""], func(t *testing.T) {
				h := newHost(t, f, "a")
				h.driver = view.NameErofs
				cmd := h.victim(fail.Env + "=" + p.name)
				killed := f.give("a", from(job("killed", "cat last"), made[2]))
				require.Error(t, cmd.Wait(), "it was not killed")
				f.edit(func() { killed.fenced = true })
				h.opts = func(o *store.Options) { o.BootID = boot }
				h.edit = func(o *Options) { o.BootID = boot }
				h.start()
				n := f.called("GET", "/v1/blobs/")
				again := f.give("a", from(job("again", "cat last f0; test $(stat -c %s big) = 100000"), made[2]))
				fin := f.green(again)
				require.Contains(t, f.logOf(again), "\n2\n0\n")
				want := p.held && (boot == "" || p.synced)
				require.Equal(t, want, fin.Workspace.Source == api.SourceLocal, fin.Workspace.Source)
				require.Equal(t, want, f.called("GET", "/v1/blobs/") == n, "what it fetched")
				f.durable(fin.Output)
				require.True(t, h.synced()[tip], "before what stands on it is durable")
				require.NoError(t, h.store.Verify(t.Context(), tip))
				h.end()
				requireNoViews(t, h)
				f.edit(func() { delete(f.agents, "a") })
			})
		}
	}
}
