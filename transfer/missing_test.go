package transfer_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer"
)

func layers(pairs ...snapshot.ID) []transfer.LayerRef {
	var out []transfer.LayerRef
	for i := 0; i < len(pairs); i += 2 {
		out = append(out, transfer.LayerRef{ID: pairs[i], Base: pairs[i+1], IndexBytes: int64(i)})
	}
	return out
}

func TestMissing(t *testing.T) {
	all := layers("c", "b", "b", "a", "a", "", "d", "a", "loop1", "loop2", "loop2", "loop1", "self", "self", "cut", "nowhere")
	twice := append(layers("x", ""), layers("y", "", "x", "y")...)
	for _, c := range []struct {
		name   string
		layers []transfer.LayerRef
		have   []snapshot.ID
		want   []snapshot.ID
		got    []snapshot.ID
		err    string
	}{
		{"nothing wanted", all, nil, nil, nil, ""},
		{"chain", all, nil, []snapshot.ID{"c"}, []snapshot.ID{"a", "b", "c"}, ""},
		{"part is here", all, []snapshot.ID{"b"}, []snapshot.ID{"c"}, []snapshot.ID{"c"}, ""},
		{"all is here", all, []snapshot.ID{"c"}, []snapshot.ID{"c"}, nil, ""},
		{"here but not listed", nil, []snapshot.ID{"z"}, []snapshot.ID{"z"}, nil, ""},
		{"base here and not listed", all, []snapshot.ID{"nowhere"}, []snapshot.ID{"cut"}, []snapshot.ID{"cut"}, ""},
		{"fan-in shares a base", all, nil, []snapshot.ID{"d", "c"}, []snapshot.ID{"a", "d", "b", "c"}, ""},
		{"same twice", all, nil, []snapshot.ID{"a", "a"}, []snapshot.ID{"a"}, ""},
		{"not listed", all, nil, []snapshot.ID{"q"}, nil, "layer q"},
		{"base not listed", all, nil, []snapshot.ID{"cut"}, nil, "layer nowhere, needed for cut"},
		{"circle", all, nil, []snapshot.ID{"loop1"}, nil, "circle"},
		{"itself", all, nil, []snapshot.ID{"self"}, nil, "circle"},
		{"two meanings", twice, nil, []snapshot.ID{"x"}, nil, "twice"},
		{"listed twice alike", append(layers("a", ""), layers("a", "")...), nil, []snapshot.ID{"a"}, []snapshot.ID{"a"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			have := map[snapshot.ID]bool{}
			for _, id := range c.have {
				have[id] = true
			}
			got, err := transfer.Missing(c.layers, func(id snapshot.ID) bool { return have[id] }, c.want)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			var ids []snapshot.ID
			for _, l := range got {
				ids = append(ids, l.ID)
			}
			require.Equal(t, c.got, ids)
		})
	}
	_, err := transfer.Missing(all, func(snapshot.ID) bool { return false }, []snapshot.ID{"cut"})
	require.ErrorIs(t, err, snapshot.ErrNotFound)
}

// In any forest: what comes out is needed, not held, once, and its base stands before it
// or is held.
func TestMissingIsRightInAnyForest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		id := func(i int) snapshot.ID { return snapshot.ID(fmt.Sprint(i)) }
		var ls []transfer.LayerRef
		held := map[snapshot.ID]bool{}
		for i := range n {
			l := transfer.LayerRef{ID: id(i)}
			if b := rapid.IntRange(-1, i-1).Draw(t, "base"); b >= 0 {
				l.Base = id(b)
			}
			ls = append(ls, l)
			held[l.ID] = rapid.Bool().Draw(t, "held")
		}
		ls = rapid.Permutation(ls).Draw(t, "order")
		want := rapid.SliceOf(rapid.Custom(func(t *rapid.T) snapshot.ID { return id(rapid.IntRange(0, n-1).Draw(t, "i")) })).Draw(t, "want")
		got, err := transfer.Missing(ls, func(id snapshot.ID) bool { return held[id] }, want)
		if err != nil {
			t.Fatal(err)
		}
		have := map[snapshot.ID]bool{}
		maps.Copy(have, held)
		for _, l := range got {
			if have[l.ID] {
				t.Fatalf("%s is there already", l.ID)
			}
			if l.Base != "" && !have[l.Base] {
				t.Fatalf("%s comes before its base %s", l.ID, l.Base)
			}
			have[l.ID] = true
		}
		for _, w := range want {
			if !have[w] {
				t.Fatalf("%s is wanted and not there", w)
			}
		}
		checkChains(t, got, held, want)
	})
}

// checkChains checks that the chains of got are all of it, each a line on what is there by
// then as a snapshot, and that what is wanted is.
func checkChains(t *rapid.T, got []transfer.LayerRef, held map[snapshot.ID]bool, want []snapshot.ID) {
	n := 0
	for _, c := range transfer.Chains(got, want) {
		for i, l := range c {
			if l != got[n] || i > 0 && l.Base != c[i-1].ID || i == 0 && l.Base != "" && !held[l.Base] {
				t.Fatalf("%v can't be imported", c)
			}
			n++
		}
		held[c[len(c)-1].ID] = true
	}
	if n != len(got) {
		t.Fatalf("%d of %d layers", n, len(got))
	}
	for _, w := range want {
		if !held[w] {
			t.Fatalf("%s is wanted, and no snapshot of its own", w)
		}
	}
}

func TestChains(t *testing.T) {
	// a - b - c - d, and on b: e - f.
	all := layers("a", "", "b", "a", "c", "b", "d", "c", "e", "b", "f", "e", "other", "")
	type chain = []snapshot.ID
	for _, c := range []struct {
		name       string
		have, want []snapshot.ID
		got        []chain
	}{
		{"nothing", nil, nil, nil},
		{"one line", nil, []snapshot.ID{"d"}, []chain{{"a", "b", "c", "d"}}},
		{"what is here", []snapshot.ID{"b"}, []snapshot.ID{"d"}, []chain{{"c", "d"}}},
		{"two that are wanted", nil, []snapshot.ID{"c", "d"}, []chain{{"a", "b", "c"}, {"d"}}},
		{"the upper one first", nil, []snapshot.ID{"d", "c"}, []chain{{"a", "b", "c"}, {"d"}}},
		{"two that part", nil, []snapshot.ID{"d", "f"}, []chain{{"a", "b"}, {"c", "d"}, {"e", "f"}}},
		{"where they part is here", []snapshot.ID{"b"}, []snapshot.ID{"d", "f"}, []chain{{"c", "d"}, {"e", "f"}}},
		{"two lines", nil, []snapshot.ID{"c", "other"}, []chain{{"a", "b", "c"}, {"other"}}},
		{"two lines, the other way", nil, []snapshot.ID{"other", "c"}, []chain{{"other"}, {"a", "b", "c"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			need, err := transfer.Missing(all, func(id snapshot.ID) bool { return slices.Contains(c.have, id) }, c.want)
			require.NoError(t, err)
			var got []chain
			for _, ls := range transfer.Chains(need, c.want) {
				var ids chain
				for _, l := range ls {
					ids = append(ids, l.ID)
				}
				got = append(got, ids)
			}
			require.Equal(t, c.got, got)
		})
	}
}
