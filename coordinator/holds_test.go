package coordinator

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

const mib = 1 << 20

// facts reports a packed and durable snapshot: bytes of content and an index of one MiB.
func (h *host) facts(id, base snapshot.ID, content int64, edit ...func(*api.LayerRef)) {
	h.b.t.Helper()
	l := api.LayerRef{
		ID: id, Base: base, StoredBytes: content + mib, IndexBytes: mib, TreeBytes: 100 << 30,
		PlainBytes: content, Durable: true,
	}
	copy(l.Index[:], id)
	if base == "" {
		l.TreeBytes = content
	}
	copy(l.Manifest[:], "m"+string(id))
	for _, f := range edit {
		f(&l)
	}
	require.NoError(h.b.t, h.c.PutSnapshot(h.b.t.Context(), l))
}

// missing is how much would move to each host for a job that waits or runs.
func missing(j api.Job) map[string]int64 {
	out := map[string]int64{}
	for _, c := range j.Placed.Candidates {
		out[c.Host] = c.MissingBytes / mib
	}
	return out
}

const line = `
stages: [one, two, three]
one: {stage: one, tags: [a], script: x}
two: {stage: two, tags: [a], script: x}
three: {stage: three, tags: [%s], script: x}
`

// A host that fetched a line for its last snapshot says what it has of the others, at
// once or when it registers. What stands on these costs what is missing of them, until
// that snapshot is gone. Nothing of it is believed beyond what the layers have.
func TestPartsOfALine(t *testing.T) {
	b := newBench(t)
	a, z := b.newHost("a", 4, "a"), b.newHost("z", 4, "z")
	p := b.submit(fmt.Sprintf(line, "z"))
	one := a.run("one")
	a.facts(one, "", 300*mib)
	two := a.run("two")
	a.facts(two, one, 10*mib)
	c := z.claim()
	require.EqualValues(t, 312, missing(b.job(p, "three"))["z"])
	z.begin(c)
	_, err := z.end(c, api.Finish{Status: api.StatusSuccess, Code: api.SealNever})
	require.NoError(t, err)
	holds := api.Holding{ID: two, Bytes: 1, Of: []api.Part{{ID: one, Bytes: 290 * mib}}}
	z.beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{holds} })

	// The next pipeline starts from one, and adds to it.
	again := func(name string, want int64) {
		t.Helper()
		p := b.submit(fmt.Sprintf(line, "z"))
		c := a.claim()
		require.Equal(t, []snapshot.ID{one}, ids(c))
		a.begin(c)
		next := a.succeed(c)
		a.facts(next, one, 5*mib)
		c = a.claim()
		a.begin(c)
		last := a.succeed(c)
		a.facts(last, next, 2*mib)
		c = z.claim()
		require.EqualValues(t, want, missing(b.job(p, "three"))["z"], name)
		require.Contains(t, b.job(p, "three").Placed.Reason, fmt.Sprintf("moves %d.0 MiB", want), name)
		require.Len(t, c.Layers, 3, "what is needed does not depend on it")
		z.begin(c)
		_, err := z.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript})
		require.NoError(t, err)
		// What z was given is held there now, as far as is known.
		z.beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{{ID: last, Gone: true}} })
	}
	again("a part of it is there", 10+5+2+3)
	z.reg.Holdings = []api.Holding{holds}
	z.register()
	again("the host came back", 10+5+2+3)
	z.beat(func(h *api.Heartbeat) {
		h.Holdings = []api.Holding{{ID: two, Of: []api.Part{{ID: one, Bytes: 1 << 62}, {ID: newID(t), Bytes: 1 << 62}}}}
	})
	again("it says too much", 5+2+3)
	z.beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{{ID: two, Gone: true}} })
	again("it is gone", 307+3)
	require.Empty(t, b.s.world.fleet["z"].parts)
	require.Empty(t, b.s.world.fleet["z"].with)

	for _, bad := range []api.Part{{ID: "x", Bytes: 1}, {ID: one, Bytes: -1}} {
		_, err := z.c.Heartbeat(t.Context(), z.id, api.Heartbeat{Session: z.reg.Session, Holdings: []api.Holding{{ID: two, Of: []api.Part{bad}}}})
		require.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid})
	}
	many := api.Holding{ID: two}
	for range 10 * api.MaxParts {
		many.Of = append(many.Of, api.Part{ID: newID(t), Bytes: 1})
	}
	z.beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{many, many} })
	require.Len(t, b.s.world.fleet["z"].parts, api.MaxParts)
}

// A layer that is against nothing although there are others before it costs what it
// stored where one of these is held, all of the tree elsewhere; and a merge costs what
// is missing of the parents that it does not stand on.
func TestContentBesideTheBase(t *testing.T) {
	b := newBench(t)
	a := b.newHost("a", 4, "a")
	b.newHost("z", 4, "s")
	p := b.submit(`
stages: [one, two, three, four]
one: {stage: one, tags: [a], script: x}
l: {stage: two, tags: [a], script: x}
r: {stage: two, tags: [a], script: x}
anew: {stage: three, tags: [a], needs: [l], script: x}
both: {stage: three, tags: [a], needs: [l, r], script: x}
see-anew: {stage: four, tags: [s], needs: [anew], script: x}
see-both: {stage: four, tags: [s], needs: [both], script: x}
`)
	one := a.run("one")
	a.facts(one, "", 300*mib)
	cs := a.claims(2)
	a.begin(cs[0])
	a.begin(cs[1])
	l := a.succeed(cs[0])
	r := a.succeed(cs[1])
	a.facts(l, one, 20*mib)
	a.facts(r, one, 40*mib)
	cs = a.claims(2)
	require.Equal(t, "anew", cs[0].Job.Name)
	a.begin(cs[0])
	a.begin(cs[1])
	b.newHost("has-l", 4, "s").beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{{ID: l}} })
	b.newHost("has-one", 4, "s").beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{{ID: one}} })
	b.newHost("has-r", 4, "s").beat(func(h *api.Heartbeat) { h.Holdings = []api.Holding{{ID: r}} })
	anew := a.succeed(cs[0])
	a.facts(anew, "", 301*mib, func(l *api.LayerRef) { l.OwnBytes = 4 * mib })
	both := a.succeed(cs[1])
	a.facts(both, l, 2*mib)
	require.Equal(t, map[string]int64{"a": 0, "z": 302, "has-l": 4, "has-one": 24, "has-r": 302},
		missing(b.job(p, "see-anew")))
	require.Equal(t, map[string]int64{"a": 0, "z": 300 + 1 + 20 + 1 + 40 + 2 + 1, "has-l": 40 + 3, "has-one": 20 + 1 + 40 + 3, "has-r": 300 + 1 + 20 + 1 + 3},
		missing(b.job(p, "see-both")))
}
