package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// gcReport is what roost gc --json prints.
type gcReport struct {
	DryRun  bool `json:"dry_run"`
	Swept   []store.Swept
	Usage   int64
	After   int64
	Reached bool
	store.EvictReport
}

// gc runs the command, which must end with want.
func (f *fleet) gc(want int, args ...string) gcReport {
	f.t.Helper()
	r := roost(f.t, f.dir, append([]string{"gc", "--json"}, args...)...)
	require.Equal(f.t, want, r.code, r.errOut)
	var out gcReport
	if want < 2 {
		require.NoError(f.t, json.Unmarshal([]byte(r.out), &out), r.out)
	}
	return out
}

// TestGC makes room in the store of a stopped agent by hand: it says before what it
// would do, keeps what a person pinned and what has no other copy, deletes what a crash
// left, and the agent works on afterwards.
func TestGC(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	f := newFleet(t, roostBinary(t), 1)
	host := filepath.Join(f.dir, "host-a")
	pipeline := "make: {script: [\"test -e big || head -c 2M /dev/urandom > big\", \"sha256sum big > sum\"]}"
	ids := map[string]snapshot.ID{}
	for _, p := range []string{"a", "b", "c"} {
		run := f.run("gc/"+p, pipeline)
		f.requireSuccess(run)
		ids[p] = job(t, run, "make").Workspace.Output
	}
	f.waitUploaded("host-a", 6) // an index and a pack of each
	gc := f.gc
	gc(3, "--store-dir", host)
	f.agents["host-a"].stop()
	delete(f.agents, "host-a")
	gc(2)
	gc(2, "--store-dir", filepath.Join(f.dir, "nowhere"))
	gc(2, "--store-dir", host, "--target", "much")
	gc(2, "--store-dir", host, "--pin", "../x")
	require.NoError(t, os.WriteFile(filepath.Join(host, "tmp", "left"), make([]byte, 100), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(host, "packs", "left"), make([]byte, 100), 0o600))

	out := gc(0, "--store-dir", host)
	require.Len(t, out.Swept, 2)
	require.Empty(t, out.Evicted, "without a target only what is of no use goes")
	require.Len(t, out.Kept, 1)
	out = gc(0, "--store-dir", host, "--older-than", "1h")
	require.Empty(t, out.Evicted)
	require.Empty(t, out.Swept)
	out = gc(0, "--store-dir", host, "--target", "5MiB", "--dry-run", "--pin", string(ids["a"]))
	require.True(t, out.DryRun)
	require.Len(t, out.Evicted, 1)
	require.Contains(t, []snapshot.ID{ids["b"], ids["c"]}, out.Evicted[0].ID, "one that nobody pinned")
	require.Equal(t, store.EvictDurable, out.Evicted[0].Reason)
	require.Equal(t, out, func() gcReport { o := gc(0, "--store-dir", host, "--target", "5MiB"); o.DryRun = true; return o }())
	out = gc(1, "--store-dir", host, "--target", "1MiB")
	require.Len(t, out.Evicted, 1)
	require.False(t, out.Reached)
	require.Equal(t, store.KeptPinned, out.Kept[0].Reason)
	r := roost(t, f.dir, "gc", "--store-dir", host, "--target", "1MiB")
	require.Equal(t, 1, r.code)
	require.Contains(t, r.out, "NOT REACHED")
	require.Contains(t, r.out, "kept-pinned")

	f.gcAsksBlobStore(host, ids["a"])

	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	f.requireSuccess(f.run("gc/a", "make: {script: [\"sha256sum --check sum\"]}"))
	f.stop()
	requireNothingLeft(t, f.dir)
}

// gcAsksBlobStore: with a configuration the blob store is asked; one that lost a blob keeps
// the layer.
func (f *fleet) gcAsksBlobStore(host string, pinned snapshot.ID) {
	t, conf := f.t, f.config(host)
	blobs := f.blobs()
	for _, b := range blobs {
		require.NoError(t, os.Rename(b, b+".away"))
	}
	out := f.gc(1, "--config", conf, "--target", "0", "--unpin", string(pinned))
	require.Equal(t, []snapshot.ID{pinned}, out.Unconfirmed)
	for _, b := range blobs {
		require.NoError(t, os.Rename(b+".away", b))
	}
	out = f.gc(0, "--config", conf, "--target", "0")
	require.Len(t, out.Evicted, 1)
	require.Zero(t, out.After)
}
