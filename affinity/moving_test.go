package affinity

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// What has to move to a host is what it lacks: of a layer of which it has a part, the
// rest and what says of what the layer is.
func TestMoving(t *testing.T) {
	line := Chain{
		{ID: "top", Bytes: 10, Index: 1, Durable: true},
		{ID: "mid", Bytes: 100, Index: 2, Durable: true},
		{ID: "root", Bytes: 1000, Index: 3, Durable: true},
	}
	part := func(with snapshot.ID, bytes int64) Part { return Part{With: with, Bytes: bytes} }
	capped := Chain{{ID: "top", Bytes: 10, Index: 1, Durable: true, Tree: 300}, line[1], line[2]}
	merge := Chain{{ID: "merge", Bytes: 5, Index: 1, Durable: true, Beside: []Chain{{{ID: "b2", Bytes: 20}, {ID: "b1", Bytes: 200}}}}}
	for _, c := range []struct {
		name   string
		host   Host
		inputs []Chain
		want   int64
		eta    float64
	}{
		{"nothing is there", Host{}, []Chain{line}, 1116, 0},
		{"the base is there", Host{Has: has("root")}, []Chain{line}, 113, 0},
		{"all is there", Host{Has: has("top")}, []Chain{line}, 0, 0},
		{"a part of the root is there", Host{Parts: map[snapshot.ID][]Part{"root": {part("x", 900)}}}, []Chain{line}, 216, 0},
		{"no more is believed than the layer has", Host{Parts: map[snapshot.ID][]Part{"root": {part("x", 1<<40)}}}, []Chain{line}, 116, 0},
		{"one of several is copied from", Host{Parts: map[snapshot.ID][]Part{"root": {part("x", 900)}, "mid": {part("y", 100)}}}, []Chain{line}, 216, 0},
		{"it has parts of several with one", Host{Parts: map[snapshot.ID][]Part{"root": {part("x", 900), part("y", 950)}, "mid": {part("x", 100)}}}, []Chain{line}, 116, 0},
		{"parts below what is there do not count", Host{Has: has("mid"), Parts: map[snapshot.ID][]Part{"root": {part("x", 900)}}}, []Chain{line}, 11, 0},
		{"no more than the tree", Host{}, []Chain{capped}, 306, 0},
		{"parts of what is replaced are no part of the tree", Host{Parts: map[snapshot.ID][]Part{"mid": {part("x", 50)}}}, []Chain{capped}, 306, 0},
		{"a part under way", Host{Parts: map[snapshot.ID][]Part{"root": {{With: "x", Bytes: 1000, After: 7}}}}, []Chain{line}, 116, 7},
		{"what a merge has beside its base", Host{}, []Chain{merge}, 226, 0},
		{"a merge's other parent is there", Host{Has: has("b2")}, []Chain{merge}, 6, 0},
		{"the one before it is", Host{Has: has("b1")}, []Chain{merge}, 26, 0},
		{"what is in two inputs moves once", Host{}, []Chain{merge, {{ID: "z", Bytes: 7, Durable: true, Beside: merge[0].Beside}}}, 233, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.host.Name, c.host.Slots, c.host.Free = "a", 1, 1
			d := Decide(Fleet{Hosts: []Host{c.host}, Jobs: []Job{{ID: "j", Inputs: c.inputs}}})
			require.Len(t, d.Assign, 1)
			require.Equal(t, c.want, d.Assign[0].Missing)
			require.GreaterOrEqual(t, d.Assign[0].Seconds, c.eta)
			require.Equal(t, c.want, d.Assign[0].Candidates[0].Missing)
		})
	}
	// Parts never stand in for what is not uploaded.
	d := Decide(Fleet{
		Hosts: []Host{{Name: "a", Slots: 1, Free: 1, Parts: map[snapshot.ID][]Part{"s": {part("x", 1)}}}},
		Jobs:  []Job{{ID: "j", Inputs: local("s")}},
	})
	require.Equal(t, string(WaitUpload), summary(d))
}

// What is gone of a layer from the tree that it is there with moves only as far as the
// new tree can show it: one that has grown by no more than what came since does not.
func TestMovingWhatIsGone(t *testing.T) {
	// Stored, files take a tenth. The root is 1000, of which x shows 300 any more.
	line := Chain{
		{ID: "top", Bytes: 10, Durable: true, Tree: 500, Plain: 5000}, {ID: "root", Bytes: 1000, Durable: true},
	}
	for _, c := range []struct {
		name string
		tree int64
		want int64
	}{
		{"it is not known", 0, 500},
		{"none of it can be in the tree", 5000, 10},
		{"the tree is smaller", 9000, 10},
		{"the tree shows 80 more", 4920, 90},
		{"not more than is gone", 1, 500},
	} {
		h := Host{Name: "a", Slots: 1, Free: 1, Parts: map[snapshot.ID][]Part{"root": {{With: "x", Bytes: 300, Tree: c.tree}}}}
		d := Decide(Fleet{Hosts: []Host{h}, Jobs: []Job{{ID: "j", Inputs: []Chain{line}}}})
		require.Equal(t, c.want, d.Assign[0].Missing, c.name)
	}
}

// What comes for one job is not fetched again for the next one, be it placed in the same
// decision or while it comes.
func TestMovesOnce(t *testing.T) {
	line := Chain{{ID: "top", Bytes: 10, Durable: true}, {ID: "mid", Bytes: 100, Durable: true}, {ID: "root", Bytes: 1000, Durable: true}}
	hosts := []Host{{Name: "a", Slots: 4, Free: 4}}
	d := Decide(Fleet{Hosts: hosts, Jobs: []Job{
		{ID: "j1", Index: 1, Inputs: []Chain{line}}, {ID: "j2", Index: 2, Inputs: []Chain{line}}, {ID: "j3", Index: 3, Inputs: []Chain{line[1:]}},
	}})
	require.Len(t, d.Assign, 3)
	require.EqualValues(t, 1110, d.Assign[0].Missing)
	require.EqualValues(t, 0, d.Assign[1].Missing)
	require.EqualValues(t, 100-90+1000-890, d.Assign[2].Missing, "of mid 90 come, of root 890")
	for _, a := range d.Assign[1:] {
		require.GreaterOrEqual(t, a.Seconds, d.Assign[0].Seconds)
		require.NotEqual(t, Continuation, a.Code)
	}
	require.Nil(t, hosts[0].Coming)
	// A tree of 300 has lost most of the root.
	small := Chain{{ID: "top", Bytes: 10, Durable: true, Tree: 300}, line[1], line[2]}
	d = Decide(Fleet{Hosts: hosts, Jobs: []Job{{ID: "j1", Index: 1, Inputs: []Chain{small}}, {ID: "j2", Index: 2, Inputs: []Chain{line[1:]}}}})
	require.EqualValues(t, 1100-290, d.Assign[1].Missing)
	seeds := map[string][]Chain{"": {line}}
	d = Decide(Fleet{Hosts: hosts, Jobs: []Job{{ID: "j1", Index: 1, Seeds: seeds}, {ID: "j2", Index: 2, Seeds: seeds}}})
	require.EqualValues(t, 1110, d.Assign[0].Missing)
	require.EqualValues(t, 0, d.Assign[1].Missing)
}
