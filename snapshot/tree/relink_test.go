package tree

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// TestRelink: whatever Links somebody wrote into a list, Relink's makes the same tree,
// and what is one file there has one Link in the list, which no other file has.
func TestRelink(t *testing.T) {
	changed, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, true).Draw(t, "base")
		list := scramble(t, base, Diff(base, genTree(base, true).Draw(t, "b")))
		was := slices.Clone(list)
		want, err := Apply(base, list)
		if err != nil {
			refused++
			return
		}
		require.NoError(t, Validate(want))
		got := Relink(want, list)
		require.Equal(t, was, list, "the list was changed")
		require.NoError(t, ValidateChanges(got))
		again, err := Apply(base, got)
		require.NoError(t, err)
		require.Equal(t, want, again)
		require.Equal(t, got, Relink(want, got), "it has nothing to do with its own list")
		if !slices.EqualFunc(list, got, func(a, b snapshot.Change) bool { return a.Entry.Link == b.Entry.Link }) {
			changed++
		}
		names := map[string]int{}
		for i := range got {
			if c := &got[i]; !c.Delete {
				e, ok := want.Find(c.Entry.Path)
				require.True(t, ok)
				require.Equal(t, e.Link, c.Entry.Link, c.Entry.Path)
				names[e.Link]++
			}
		}
		for i := range want.Entries {
			if link := want.Entries[i].Link; link != "" && names[link] > 0 {
				names[link]--
				require.NotNil(t, findChange(got, want.Entries[i].Path), "a name of a group is left out")
			}
		}
	})
	if !testing.Short() { // which draws too few for chance to be fair
		require.Greater(t, changed, refused/10, "the lists say too little of what the test is about")
	}
}

// TestRelinkLeavesDiffsAlone: lists of our own are right, and are not copied.
func TestRelinkLeavesDiffsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genTree(nil, true).Draw(t, "a")
		b := genTree(a, true).Draw(t, "b")
		for _, list := range [][]snapshot.Change{Diff(nil, b), Diff(a, b)} {
			got := Relink(b, list)
			require.Equal(t, list, got)
			require.True(t, len(list) == 0 || &list[0] == &got[0])
		}
	})
}

// scramble writes other Links into a list: names of the list, of the base, of neither.
func scramble(t *rapid.T, base *snapshot.Manifest, list []snapshot.Change) []snapshot.Change {
	list = slices.Clone(list)
	link := []string{"", "no/where"}
	for i := range base.Entries {
		link = append(link, base.Entries[i].Path)
	}
	for i := range list {
		link = append(link, list[i].Entry.Path)
	}
	for i := range list {
		if c := &list[i]; !c.Delete && c.Entry.Type == snapshot.TypeFile && rapid.Bool().Draw(t, "scrambled") {
			c.Entry.Link = rapid.SampledFrom(link).Draw(t, fmt.Sprint("link", i))
			c.Entry.MTime, c.Entry.Mode = 1, 0o644
		}
	}
	return list
}
