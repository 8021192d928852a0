package coordinator

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// ids are the snapshots of a claim's inputs.
func ids(c api.Claim) []snapshot.ID {
	var out []snapshot.ID
	for _, in := range c.Inputs {
		out = append(out, in.Snapshot)
	}
	return out
}

func TestFanIn(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 2)
	b.submit(`
stages: [build, test, pack]
build: {stage: build, script: x}
left: {stage: test, script: x}
right: {stage: test, script: x}
pack: {stage: pack, script: x}
`)
	build := h.run("build")
	cs := h.claims(2)
	require.Equal(t, []snapshot.ID{build}, ids(cs[0]))
	require.Equal(t, []snapshot.ID{build}, ids(cs[1]))
	h.begin(cs[0])
	h.begin(cs[1])
	right := h.succeed(cs[1])
	left := h.succeed(cs[0])
	c := h.claim()
	// build is contained in both; the order is the file's, not that of the ends.
	require.Equal(t, []snapshot.ID{left, right}, ids(c))
	require.Equal(t, api.WorkspaceMerged, c.Code)
	require.ElementsMatch(t, []api.Node{
		{ID: left, Parents: []snapshot.ID{build}, Job: "left"},
		{ID: right, Parents: []snapshot.ID{build}, Job: "right"},
		{ID: build, Job: "build"},
	}, c.Lineage)
}

// A job that keeps nothing hands on what it got, and so does one that failed.
func TestPassThrough(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(`
stages: [one, two, three, four]
build: {stage: one, script: x}
lint: {stage: two, script: x, needs: [build], workspace: {commit: never}}
bad: {stage: three, script: x, needs: [lint], allow_failure: true}
last: {stage: four, script: x, needs: [bad]}
apart: {stage: four, script: x, needs: [bad], workspace: false}
`)
	build := h.run("build")
	c := h.claim()
	h.begin(c)
	_, err := h.end(c, api.Finish{Status: api.StatusSuccess, Code: api.SealNever})
	require.NoError(t, err)
	c = h.claim()
	require.Equal(t, []snapshot.ID{build}, ids(c))
	h.begin(c)
	_, err = h.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript, ExitCode: 1})
	require.NoError(t, err)
	c = h.claim()
	require.Equal(t, "last", c.Job.Name)
	require.Equal(t, []snapshot.ID{build}, ids(c))
	h.begin(c)
	h.succeed(c)
	c = h.claim()
	require.Equal(t, "apart", c.Job.Name)
	require.Empty(t, c.Inputs)
	require.Equal(t, api.WorkspaceDisabled, c.Code)
	h.begin(c)
	_, err = h.end(c, api.Finish{Status: api.StatusSuccess})
	require.NoError(t, err)
	require.Equal(t, api.StatusSuccess, b.status(p))
}

// A parent whose files could not be kept fails the job that must have them and
// leaves the other one to a fresh start.
func TestBrokenParent(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(`
stages: [one, two]
build: {stage: one, script: x}
must: {stage: two, script: x, workspace: {mode: required}}
may: {stage: two, script: x, workspace: {mode: optional}}
`)
	c := h.claim()
	h.begin(c)
	_, err := h.end(c, api.Finish{Status: api.StatusSuccess, Code: api.SealUnsupported, Reason: "dev/sda: a block device can't be part of a snapshot"})
	require.NoError(t, err)
	c = h.claim()
	require.Equal(t, "may", c.Job.Name)
	require.Empty(t, c.Inputs)
	require.Equal(t, api.WorkspaceLost, c.Code)
	must := b.job(p, "must")
	require.Equal(t, api.StatusFailed, must.Status)
	require.Equal(t, api.FailInput, must.Code)
	require.Equal(t, 0, must.Attempt, "it never ran")
}

// The only holder dies before it uploaded: the job waits for it as long as it may
// come back, and no longer.
func TestHolderLost(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 1), b.newHost("z", 1)
	p := b.submit(linear)
	a.run("build")
	// Before a took the next one, it is gone.
	b.advance(20 * time.Second)
	z.beat()
	b.advance(20 * time.Second)
	z.beat()
	require.Equal(t, api.WaitLost, b.job(p, "test").Code)
	require.Contains(t, b.job(p, "test").Reason, "a can't be reached")
	for range 14 {
		b.advance(20 * time.Second)
		z.beat()
	}
	require.Equal(t, api.WaitLost, b.job(p, "test").Code)
	for range 2 {
		b.advance(20 * time.Second)
		z.beat()
	}
	require.Equal(t, api.FailInput, b.job(p, "test").Code)
	require.Equal(t, api.StatusFailed, b.status(p))
}

// The only holder comes back in time, with its files.
func TestHolderReturns(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 1), b.newHost("z", 1)
	p := b.submit(linear)
	out := a.run("build")
	b.advance(20 * time.Second)
	z.beat()
	b.advance(20 * time.Second)
	require.Equal(t, api.WaitLost, b.job(p, "test").Code)
	a.reg.Session, a.reg.Holdings = newID(t), []api.Holding{{ID: out, Bytes: 1}}
	a.register()
	require.Equal(t, out, ids(a.claim())[0])
}

// A full holder and a free host: the free one can't have the files before they are
// uploaded, and the holder is told to hurry.
func TestUpload(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 1), b.newHost("z", 1)
	b.submit(linear)
	b.submit(single)
	a.run("build")
	c := z.claim()
	require.Equal(t, "job", c.Job.Name)
	// z is busy, a takes something long; test can only wait for a.
	test := a.claim()
	require.Equal(t, "test", test.Job.Name)
	a.begin(test)
	a.succeed(test)

	p := b.submit(`
stages: [one, two]
base: {stage: one, script: x}
l: {stage: two, script: x}
r: {stage: two, script: x}
`)
	z.begin(c)
	out := a.run("base")
	l := a.claim()
	a.begin(l)
	z.succeed(c)
	require.Empty(t, z.poll())
	waits := "r"
	if l.Job.Name == "r" {
		waits = "l"
	}
	require.Equal(t, api.WaitUpload, b.job(p, waits).Code)
	require.Equal(t, []snapshot.ID{out}, a.beat().Urgent)
	require.Empty(t, z.beat().Urgent, "z can't hurry what it does not have")

	a.upload(out, "", 1000)
	c = z.claim()
	require.Equal(t, waits, c.Job.Name)
	require.Len(t, c.Layers, 1)
	require.Equal(t, out, c.Layers[0].ID)
	require.False(t, c.Inputs[0].Manifest.IsZero())
	why := b.job(p, waits).Placed
	require.Equal(t, api.PlacedCheapest, why.Code)
	require.Len(t, why.Candidates, 2)
	require.Equal(t, "z", why.Candidates[0].Host)
	require.Equal(t, int64(1000), why.Candidates[0].MissingBytes)
}

// The first job of a green pipeline seeds the next one's, where the fingerprint is
// the same; a seed that can't be had is no error.
func TestSeeds(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	p := b.submit(linear)
	seed := a.run("build")
	b.submit(linear)
	a.drive(nil)
	require.Equal(t, api.StatusSuccess, b.status(p))

	b.submit(single)
	c := a.claim()
	require.Equal(t, api.WorkspaceCold, c.Code, "another job's output is no seed")
	a.begin(c)
	a.succeed(c)

	p = b.submit(linear)
	c = a.claim()
	require.Equal(t, api.OriginSeed, c.Origin)
	require.Equal(t, "seed of pipeline 2", c.Reason)
	require.NotEqual(t, seed, c.Inputs[0].Snapshot)
	// A seed that can't be attached is given up at the first fault.
	require.NoError(t, a.c.Accept(t.Context(), ref(c)))
	_, err := a.end(c, api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailCorrupt, Reason: "bad frame"})
	require.NoError(t, err)
	a.free = 1
	c = a.claim()
	require.Equal(t, api.WorkspaceSeedGone, c.Code)
	require.Empty(t, c.Inputs)
	a.begin(c)
	a.succeed(c)
	a.drive(nil)
	require.Equal(t, api.StatusSuccess, b.status(p))

	// On a host that does not have it and can't get it, the job starts cold.
	require.NoError(t, a.c.Leave(t.Context(), a.id, api.Leave{Session: a.reg.Session}))
	z := b.newHost("z", 1)
	b.submit(linear)
	c = z.claim()
	require.Equal(t, api.WorkspaceCold, c.Code)
	require.Empty(t, c.Inputs)
	require.Contains(t, c.Reason, "can't be had")
}

// A failed pipeline leaves no seed.
func TestRedSeedsNothing(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit(linear)
	h.drive(map[string]int{"test": 1})
	b.submit(linear)
	require.Equal(t, api.WorkspaceCold, h.claim().Code)
}

// A seed on too long a line is not used: the next one begins anew.
func TestSeedChainEnds(t *testing.T) {
	b := newBench(t, func(o *Options) { o.MaxChain = 2 })
	h := b.newHost("h", 1)
	var base snapshot.ID
	for i, want := range []api.Code{
		api.WorkspaceCold, api.WorkspaceSeed, api.WorkspaceSeed, api.WorkspaceCold, api.WorkspaceSeed,
	} {
		b.submit(single)
		c := h.claim()
		require.Equal(t, want, c.Code, "pipeline %d: %s", i+1, c.Reason)
		if want == api.WorkspaceCold {
			base = ""
		}
		h.begin(c)
		out := h.succeed(c)
		h.upload(out, base, 10)
		base = out
	}
}

// A retry starts from the snapshots that the first attempt was given, whatever
// came since.
func TestInputsAreFixed(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.submit(single)
	first := a.run("job")
	b.submit(single)
	c := a.claim()
	require.Equal(t, []snapshot.ID{first}, ids(c))
	a.begin(c)
	_, err := a.end(c, api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAdapter})
	require.NoError(t, err)
	d := a.claim()
	require.Equal(t, c.Inputs, d.Inputs)
	require.Equal(t, c.Origin, d.Origin)
}

// An output from something that the job was not given is refused, and so is one
// that belongs to another job.
func TestForeignOutput(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 1)
	b.submit(linear)
	out := a.run("build")
	c := a.claim()
	a.begin(c)
	_, err := a.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusSuccess, Output: newID(t), Parents: []snapshot.ID{newID(t)}})
	requireCode(t, err, 400, api.CodeInvalid)
	_, err = a.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusSuccess, Output: out})
	requireCode(t, err, 400, api.CodeInvalid)
	_, err = a.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusFailed, Output: newID(t)})
	requireCode(t, err, 400, api.CodeInvalid)
	a.succeed(c)
}
