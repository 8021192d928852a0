package tree

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// genTree draws trees over few names, so that two of them have much in common and
// disagree in every way. seed, when not nil, is what most of it is copied from.
func genTree(seed *snapshot.Manifest, links bool) *rapid.Generator[*snapshot.Manifest] {
	return rapid.Custom(func(t *rapid.T) *snapshot.Manifest {
		m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755, MTime: 1}}}
		g := treeGen{t: t, m: m, seed: seed, links: links}
		g.fill("", 0)
		g.link()
		return m
	})
}

type treeGen struct {
	t     *rapid.T
	m     *snapshot.Manifest
	seed  *snapshot.Manifest
	links bool
}

func (g *treeGen) fill(dir string, depth int) {
	for _, name := range []string{"a", "a-b", "b", "c"} {
		p := name
		if dir != "" {
			p = dir + "/" + name
		}
		e := snapshot.Entry{Path: p, MTime: 1}
		var old *snapshot.Entry
		if g.seed != nil {
			old, _ = g.seed.Find(p)
		}
		copied := g.seed != nil && rapid.IntRange(0, 3).Draw(g.t, "copied") > 0
		if copied && old == nil {
			continue
		}
		what := 0
		if !copied {
			what = rapid.IntRange(0, 9).Draw(g.t, p)
		}
		switch {
		case copied:
			e = *old
			e.Link = ""
		case what < 4:
			continue
		case what < 6 && depth < 3:
			e.Type, e.Mode = snapshot.TypeDir, 0o755
		case what == 6:
			e.Type, e.Mode, e.Target = snapshot.TypeSymlink, 0o777, rapid.SampledFrom([]string{"x", "y"}).Draw(g.t, "target")
		default:
			e.Type, e.Mode = snapshot.TypeFile, 0o644
			setText(&e, rapid.SampledFrom([]string{"", "1", "2"}).Draw(g.t, "text"))
		}
		if !copied {
			e.MTime = rapid.Int64Range(1, 3).Draw(g.t, "mtime")
			if e.Type != snapshot.TypeSymlink && rapid.IntRange(0, 9).Draw(g.t, "chmod") == 0 {
				e.Mode = 0o700
			}
		}
		g.m.Entries = append(g.m.Entries, e)
		if e.Type == snapshot.TypeDir {
			g.fill(p, depth+1)
		}
	}
}

// link makes two groups at most. Groups of seed mostly stay: their names are drawn
// with the same content, or leave the group.
func (g *treeGen) link() {
	if !g.links {
		return
	}
	first := map[string]*snapshot.Entry{}
	join := func(k string, e *snapshot.Entry) {
		f := first[k]
		if f == nil {
			first[k] = e
			return
		}
		p := e.Path
		f.Link = f.Path
		*e = *f
		e.Path = p
	}
	for i := range g.m.Entries {
		e := &g.m.Entries[i]
		if e.Type != snapshot.TypeFile {
			continue
		}
		if g.seed != nil && rapid.IntRange(0, 3).Draw(g.t, "relink") > 0 {
			if old, ok := g.seed.Find(e.Path); ok && old.Link != "" && quickSame(old, e) {
				join("old "+old.Link, e)
			}
			continue
		}
		if k := rapid.IntRange(0, 5).Draw(g.t, "group"); k < 2 {
			join(fmt.Sprint(k), e)
		}
	}
}

func TestDiffAndApplyAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genTree(nil, true).Draw(t, "a")
		b := genTree(a, true).Draw(t, "b")
		require.NoError(t, Validate(a))
		require.NoError(t, Validate(b))
		ch := Diff(a, b)
		require.NoError(t, ValidateChanges(ch))
		before := slices.Clone(a.Entries)
		got, err := Apply(a, ch)
		require.NoError(t, err)
		require.Equal(t, b, got)
		require.Equal(t, before, a.Entries, "the base was changed")
		require.Empty(t, Diff(b, got))
		fresh, err := Apply(nil, Diff(nil, b))
		require.NoError(t, err)
		require.Equal(t, b, fresh)
	})
}

func TestOverIsApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genTree(nil, true).Draw(t, "a")
		b := genTree(a, true).Draw(t, "b")
		got, err := Over(Of(a), ChangesOf(Diff(a, b))).Manifest(0)
		require.NoError(t, err)
		require.Equal(t, b, got)
		fresh, err := Over(nil, ChangesOf(Diff(nil, b))).Manifest(0)
		require.NoError(t, err)
		require.Equal(t, b, fresh)
	})
}

func TestWithoutIsApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := genTree(nil, true).Draw(t, "a")
		var gone []string
		var del []snapshot.Change
		var last topmost
		for i := range a.Entries {
			if p := a.Entries[i].Path; rapid.IntRange(0, 4).Draw(t, "gone") == 0 {
				gone = append(gone, p)
				if p != "" && !last.covers(p) {
					last.add(p)
					del = append(del, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: p}})
				}
			}
		}
		want, err := Apply(a, del)
		require.NoError(t, err)
		less, err := Without(Of(a), gone)
		require.NoError(t, err)
		got, err := less.Manifest(0)
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestGraph(t *testing.T) {
	g := map[snapshot.ID][]snapshot.ID{"b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": {"c", "b"}, "f": {"d"}, "l": {"l"}}
	ids := func(s string) (out []snapshot.ID) {
		for _, c := range s {
			out = append(out, snapshot.ID(c))
		}
		return out
	}
	for _, c := range [][3]string{
		// ids, maximal, bases
		{"", "", ""},
		{"a", "a", "a"},
		{"bc", "bc", "a"},
		{"cb", "cb", "a"},
		{"ab", "b", "a"},
		{"fda", "f", "a"},
		{"bb", "b", "b"},
		{"de", "de", "bc"}, // crossed
		{"fe", "fe", "bc"},
		{"fb", "f", "b"},
		{"xy", "xy", ""},
		{"xb", "xb", ""},
		{"bcf", "f", "a"},
	} {
		require.Equal(t, ids(c[1]), ids2(Maximal(g, ids(c[0]))), c[0])
		require.Equal(t, ids(c[2]), ids2(MergeBases(g, ids(c[0]))), c[0])
	}
	Maximal(g, ids("la")) // a cycle is nonsense, but it ends
	MergeBases(g, ids("ll"))
}

func ids2(in []snapshot.ID) []snapshot.ID {
	if len(in) == 0 {
		return nil
	}
	return in
}
