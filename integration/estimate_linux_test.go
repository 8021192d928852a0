package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/transfer"
	"github.com/roost-ci/roost/transfer/blob"
)

// Bounds of an estimate against what moved: twice as much, either way, and the bytes of
// indexes and frames of which a part is needed.
const (
	estimateFactor = 2
	estimateSlack  = 512 << 10
)

// estimated is what the coordinator said would move for a job to its host.
func estimated(t *testing.T, j *api.Job) int64 {
	t.Helper()
	for _, c := range j.Placed.Candidates {
		if c.Host == j.Host {
			return c.MissingBytes
		}
	}
	t.Fatalf("%s: %s is not among the candidates: %+v", j.Name, j.Host, j.Placed)
	return 0
}

// requireEstimates checks that each job moved about what was said, and that the one
// called name moved at least low bytes and at most high.
func (f *fleet) requireEstimates(p *api.Pipeline, name string, low, high int64) {
	f.t.Helper()
	f.requireNotLess(p, name, low, high)
	t := f.t.(*testing.T) //nolint:forcetypeassert // there are no benchmarks of this
	for i := range p.Jobs {
		j := &p.Jobs[i]
		said, moved := estimated(t, j), j.Workspace.BytesMoved
		require.LessOrEqual(t, said, estimateFactor*moved+estimateSlack, "%s moved less than was said: %s", j.Name, j.Placed.Reason)
	}
}

// requireNotLess checks that no job moved much more than was said.
func (f *fleet) requireNotLess(p *api.Pipeline, name string, low, high int64) {
	f.t.Helper()
	t := f.t.(*testing.T) //nolint:forcetypeassert // there are no benchmarks of this
	f.requireSuccess(p)
	for i := range p.Jobs {
		j := &p.Jobs[i]
		said, moved := estimated(t, j), j.Workspace.BytesMoved
		t.Logf("%-8s on %s: %s: said %.2f MiB, moved %.2f MiB", j.Name, j.Host, j.Workspace.Reason, float64(said)/(1<<20), float64(moved)/(1<<20))
		require.LessOrEqual(t, moved, estimateFactor*said+estimateSlack, "%s moved more than was said: %s", j.Name, j.Placed.Reason)
		if j.Name == name {
			require.GreaterOrEqual(t, moved, low)
			require.LessOrEqual(t, moved, high)
		}
	}
}

// random is a line of a script that makes a file of that many MiB nobody can compress.
func random(file string, mib int) string {
	return fmt.Sprintf("mkdir -p $(dirname %[1]s) && head -c %[2]dM /dev/urandom > %[1]s", file, mib)
}

// onA is a job on host-a, seen one of the next stage on host-b.
func onA(name string, needs []string, script ...string) string {
	return estimateJob(name, "host-a", needs, script...)
}

func onB(name string, needs []string, script ...string) string {
	return estimateJob(name, "host-b", needs, append([]string{"ls -R | tail -n 3"}, script...)...)
}

func estimateJob(name, host string, needs []string, script ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:\n  stage: all\n  tags: [%s]\n  needs: [%s]\n  script:\n", name, host, strings.Join(needs, ", "))
	for _, l := range script {
		fmt.Fprintf(&b, "    - %q\n", l)
	}
	return b.String()
}

func estimatePipeline(jobs ...string) string { return "stages: [all]\n" + strings.Join(jobs, "") }

// TestEstimates places jobs on a host that holds nothing, something and all of what they
// start from, in each way in which that comes about, and compares what the coordinator
// said would move with what did.
func TestEstimates(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	f := newFleet(t, roostBinary(t), 2)
	for _, c := range []struct {
		name string
		part func(f *fleet)
	}{
		{"a line, again and again", (*fleet).estimateLine},
		{"what a line replaces", (*fleet).estimateReplaced},
		{"what the last one of a line has not any more", (*fleet).estimateDropped},
		{"fan-in", (*fleet).estimateFanIn},
		{"fan-out to a second host", (*fleet).estimateFanOut},
		{"names of files", (*fleet).estimateNames},
		{"evicted", (*fleet).estimateEvicted},
		{"only packs are held", func(f *fleet) { f.carried(false) }},
		{"pulled and unpacked", func(f *fleet) { f.carried(true) }},
		{"a line that begins anew", (*fleet).estimateAnew},
	} {
		t.Run(c.name, func(t *testing.T) { c.part(f.in(t)) })
	}
	if t.Failed() {
		return
	}
	f.stop()
	requireNothingLeft(t, f.dir)
}

const mib = 1 << 20

// keep runs a script where there is no file "base" yet.
func keep(script ...string) string {
	return "test -e base || { " + strings.Join(script, " && ") + "; }"
}

func (f *fleet) estimateLine() {
	// make starts from its seed, and so does all that follows it.
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 16)), random("churn", 1)),
		onA("more", []string{"make"}, random("more", 2)),
		onB("see", []string{"more"}, random("seen", 1)),
	)
	f.requireEstimates(f.run("line", text), "see", 19*mib, 20*mib)
	for range 3 {
		f.requireEstimates(f.run("line", text), "see", 3*mib, 4*mib)
	}
}

func (f *fleet) estimateReplaced() {
	text := estimatePipeline(
		onA("make", nil, random("big", 8)),
		onA("change", []string{"make"}, random("big", 8)),
		onA("again", []string{"change"}, random("big", 8)),
		onB("see", []string{"again"}),
	)
	f.requireEstimates(f.run("replace", text), "see", 8*mib, 9*mib)
	f.requireEstimates(f.run("replace", text), "see", 8*mib, 9*mib)
}

func (f *fleet) estimateDropped() {
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 2)), random("a/x", 8), random("b/y", 4)),
		onA("drop", []string{"make"}, "rm -r a", random("c/z", 4)),
		onB("see", []string{"drop"}, "test ! -e a"),
		onB("look", []string{"make", "see"}, "test ! -e a"), // the same line
		onB("back", []string{"make"}, "test -e a/x"),
	)
	// back may be placed before see or after it.
	f.requireEstimates(f.run("drop", text), "", 0, 0)
	text = strings.Replace(text, "back:\n  stage: all\n  tags: [host-b]\n  needs: [make]", "back:\n  stage: last\n  tags: [host-b]\n  needs: [make]", 1)
	text = strings.Replace(text, "stages: [all]", "stages: [all, last]", 1)
	f.requireEstimates(f.run("drop", text), "", 0, 0)
}

func (f *fleet) estimateFanIn() {
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 8))),
		onA("l", []string{"make"}, random("l", 4)),
		onA("r", []string{"make"}, random("r", 6)),
		onB("here", []string{"l", "r"}, "test -e l && test -e r"),
		onA("both", []string{"l", "r"}, random("both", 1)),
		onB("there", []string{"both", "here"}),
	)
	for range 3 {
		f.requireEstimates(f.run("fan-in", text), "", 0, 0)
	}
	// The merge alone, on a host that has nothing of this pipeline's.
	text = estimatePipeline(
		onA("make", nil, keep(random("base", 8))),
		onA("l", []string{"make"}, random("l", 4)),
		onA("r", []string{"make"}, random("r", 6)),
		onA("both", []string{"l", "r"}, random("both", 1)),
		onB("see", []string{"both"}),
	)
	f.requireEstimates(f.run("merge", text), "see", 19*mib, 20*mib)
	f.requireEstimates(f.run("merge", text), "see", 11*mib, 12*mib)
}

func (f *fleet) estimateFanOut() {
	t := f.t.(*testing.T) //nolint:forcetypeassert // there are no benchmarks of this
	jobs := []string{onA("make", nil, random("base", 16)), onA("more", []string{"make"}, random("more", 1))}
	for i := range 6 {
		jobs = append(jobs, onB(fmt.Sprint("out", i), []string{"more"}))
	}
	// Which of those that are placed together has it fetched is not said.
	p := f.run("fan-out", estimatePipeline(jobs...))
	f.requireSuccess(p)
	var said, moved int64
	for i := range p.Jobs {
		said += estimated(t, &p.Jobs[i])
		moved += p.Jobs[i].Workspace.BytesMoved
	}
	require.Greater(t, moved, int64(17*mib))
	require.Less(t, moved, int64(18*mib), "it came once")
	require.InEpsilon(t, moved, said, 0.1)
}

func (f *fleet) estimateNames() {
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 1), "for i in $(seq 2000); do echo $i > f$i; done")),
		onA("same", []string{"make"}, "touch f1"),
		onB("see", []string{"same"}),
	)
	for range 2 {
		f.requireEstimates(f.run("names", text), "", 0, 0)
	}
}

func (f *fleet) estimateEvicted() {
	t := f.t.(*testing.T) //nolint:forcetypeassert // there are no benchmarks of this
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 8))),
		onA("more", []string{"make"}, random("more", 2)),
		onB("see", []string{"more"}),
	)
	f.requireEstimates(f.run("evicted", text), "see", 10*mib, 11*mib)
	f.agents["host-b"].stop()
	r := roost(t, f.dir, "gc", "--store-dir", filepath.Join(f.dir, "host-b"), "--target", "0", "--json")
	require.NotContains(t, r.errOut, "panic", r.out)
	views, err := os.ReadDir(filepath.Join(f.dir, "host-b", "views"))
	require.NoError(t, err)
	require.Empty(t, views, r.out)
	f.startAgent("host-b", nil)
	f.agents["host-b"].waitReady()
	f.requireEstimates(f.run("evicted", text), "see", 10*mib, 11*mib)
	f.requireEstimates(f.run("evicted", text), "see", 2*mib, 3*mib)
}

func (f *fleet) estimateAnew() {
	text := func(see bool) string {
		jobs := []string{onA("make", nil, keep(random("base", 8)), "head -c 64K /dev/urandom > churn; date +%N >> n")}
		if see {
			jobs = append(jobs, onB("see", []string{"make"}))
		}
		return estimatePipeline(jobs...)
	}
	f.requireEstimates(f.run("anew", text(true)), "see", 8*mib, 9*mib)
	for range 30 {
		f.requireSuccess(f.run("anew", text(false)))
	}
	// Each of thirty layers has replaced what the one before it brought: what is in
	// their packs is known, how much of that is left is not.
	f.requireNotLess(f.run("anew", text(true)), "see", 0, mib)
	for range 3 { // beyond the 32nd
		f.requireEstimates(f.run("anew", text(true)), "see", 0, mib)
	}
}

// in is the fleet for a part of a test.
func (f *fleet) in(t *testing.T) *fleet {
	g := *f
	g.t = t
	return &g
}

// carried has host-b get the files of one pipeline from somebody who copied them there
// by hand, and runs a job of the same line there.
func (f *fleet) carried(unpack bool) {
	t := f.t.(*testing.T) //nolint:forcetypeassert // there are no benchmarks of this
	project := fmt.Sprint("carried-", unpack)
	text := estimatePipeline(
		onA("make", nil, keep(random("base", 8))),
		onA("more", []string{"make"}, random("more", 2)),
	)
	p := f.run(project, text)
	f.requireSuccess(p)
	base := job(t, p, "make").Workspace.Output
	for _, name := range []string{"host-a", "host-b"} {
		f.agents[name].stop()
	}
	carry(t, f, base, unpack)
	for _, name := range []string{"host-a", "host-b"} {
		f.startAgent(name, nil)
		f.agents[name].waitReady()
	}
	f.requireEstimates(f.run(project, text+onB("see", []string{"more"})), "see", 2*mib, 3*mib)
}

// carry copies a snapshot that stands on nothing from host-a's store to host-b's.
func carry(t *testing.T, f *fleet, id snapshot.ID, unpack bool) {
	t.Helper()
	open := func(name string) *store.Store {
		s, err := store.Open(t.Context(), filepath.Join(f.dir, name), store.Options{
			Driver: func(dir string) (view.Driver, error) {
				return view.Open(view.NameErofs, dir, view.Options{Owners: true})
			},
			Owners: true,
		})
		require.NoError(t, err)
		return s
	}
	a := open("host-a")
	in, err := a.Lookup(id)
	require.NoError(t, err)
	require.Empty(t, in.WireBase)
	key, err := a.KeyOf(id)
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.Equal(t, store.Durable, in.State, "an agent that stops ends its uploads")
	token, err := os.ReadFile(filepath.Join(f.dir, "coordinator", "agent.token"))
	require.NoError(t, err)
	blobs := blob.NewHTTP(f.client.BlobsURL(), func() string { return strings.TrimSpace(string(token)) }, nil)
	fetch := transfer.NewFetcher(transfer.FetcherOptions{Blobs: blobs})
	spec := store.ImportSpec{ID: id, Index: in.Index, IndexBytes: in.IndexBytes, Manifest: in.Manifest, DomainKey: key}
	b := open("host-b")
	if unpack {
		require.NoError(t, b.ImportChain(t.Context(), []store.ImportSpec{spec}, fetch.Open, nil))
	} else {
		require.NoError(t, b.Pull(t.Context(), spec, fetch.Open, nil))
	}
	require.NoError(t, b.Close())
}
