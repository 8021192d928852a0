package agent

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// neverSynced is a disk to which nothing gets.
type neverSynced struct{ *view.Erofs }

func (neverSynced) Sync(ctx context.Context, _ *view.Layer) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

// What was fetched and not synced before the machine went down is not believed, whatever
// is there of it: it is as if it had never been fetched. Nothing that stands on it was
// acknowledged for good before it was.
func TestFetchedBeforeAPowerCut(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	f := newFake(t)
	made := line(t, f, 3)
	tip := made[2].finish.Output
	h := newHost(t, f, "a")
	h.driver = view.NameErofs
	h.opts = func(o *store.Options) {
		open := o.Driver
		o.Driver = func(dir string) (view.Driver, error) {
			d, err := open(dir)
			if err != nil {
				return nil, err
			}
			return neverSynced{d.(*view.Erofs)}, nil
		}
	}
	h.start()
	at := f.give("a", from(job("away", "cat last > copy"), made[2]))
	fin := f.green(at)
	require.Equal(t, map[snapshot.ID]bool{tip: false, fin.Output: false}, h.synced(), "it is used before it is synced, and so is what stands on it")
	h.end()
	require.False(t, f.layers[fin.Output].Durable)

	h.opts = func(o *store.Options) { o.BootID = "another" }
	h.edit = func(o *Options) { o.BootID = "another" }
	h.start()
	f.wait("the new boot", func() bool { return f.agents["a"].reg.BootID == "another" })
	require.Empty(t, f.agents["a"].reg.Holdings)
	again := f.give("a", from(job("again", "cat last f0"), made[2]))
	fin = f.green(again)
	require.Equal(t, api.SourceStore, fin.Workspace.Source)
	require.Contains(t, f.logOf(again), "\n2\n0\n")
	f.durable(fin.Output)
	require.True(t, h.synced()[tip], "it is synced before what stands on it is durable")
}
