package tree

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// TestMergeInPieces: what is the same everywhere takes no part, and what is left goes
// through in pieces; the outcome is that of merging everything at once.
func TestMergeInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, true).Draw(t, "base")
		var parents []party
		for i := range rapid.IntRange(2, 4).Draw(t, "parents") {
			parents = append(parents, party{Job: fmt.Sprint(i), Tree: genTree(base, true).Draw(t, "parent")})
		}
		if rapid.IntRange(0, 4).Draw(t, "no base") == 0 {
			base = nil
		}
		var same func(a, b *snapshot.Entry) (bool, error)
		if rapid.Bool().Draw(t, "unhashed") {
			same = func(a, b *snapshot.Entry) (bool, error) { return text(a) == text(b), nil }
			if base != nil {
				base = unhashed(base, "base")
			}
			for i := range parents {
				parents[i].Tree = likeBase(base, unhashed(parents[i].Tree, parents[i].Job))
			}
		}
		for _, o := range []MergeOptions{
			{},
			{Order: true},
			{Order: true, Atomic: []string{"a", "c/a"}},
			{Order: true, Atomic: []string{"**"}},
			{Atomic: []string{"b"}, Caches: []string{"a/**"}},
			{Atomic: []string{"**/a", "c"}, Prefer: []Prefer{{Glob: "c/**", Job: "1"}}},
			{Order: true, Prefer: []Prefer{{Glob: "*/b", Job: "0"}}},
		} {
			o.Same = same
			want, failed := mergeTuned(base, parents, o, func(m *merger) { m.all = true })
			for _, keep := range []int{0, 8, keepItems} {
				got, err := mergeTuned(base, parents, o, func(m *merger) { m.keep, m.most = keep, 1 })
				require.Equal(t, failed, err)
				require.Equal(t, want, got)
			}
		}
	})
}

func TestMergeIsWhatTheRulesSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, false).Draw(t, "base")
		var parents []party
		for i := range rapid.IntRange(2, 4).Draw(t, "parents") {
			parents = append(parents, party{Job: fmt.Sprint(i), Tree: genTree(base, false).Draw(t, "parent")})
		}
		got, err := mergeTrees(base, parents, MergeOptions{})
		want, conflicts := slowMerge(base, parents)
		if len(conflicts) > 0 {
			var ce *snapshot.ConflictError
			require.ErrorAs(t, err, &ce)
			require.Equal(t, conflicts, ce.Conflicts)
			return
		}
		require.NoError(t, err)
		require.NoError(t, Validate(got.Tree))
		require.Equal(t, show(want), show(got.Tree))
	})
}

// slowMerge is the rules once more, written to be read: by looking paths up, one
// at a time, without options, links or the time of directories.
func slowMerge(base *snapshot.Manifest, parents []party) (*snapshot.Manifest, []snapshot.Conflict) {
	all := map[string]bool{}
	for _, p := range append([]party{{Tree: base}}, parents...) {
		for i := range p.Tree.Entries {
			all[p.Tree.Entries[i].Path] = true
		}
	}
	names := make([]string, 0, len(all))
	for p := range all {
		names = append(names, p)
	}
	slices.SortFunc(names, snapshot.ComparePaths)
	var (
		out       = &snapshot.Manifest{}
		conflicts []snapshot.Conflict
		skip      topmost
	)
	get := func(m *snapshot.Manifest, p string) *snapshot.Entry { e, _ := m.Find(p); return e }
	same := func(a, b *snapshot.Entry) bool {
		if a == nil || b == nil {
			return a == b
		}
		return a.SameButTime(b)
	}
	for _, p := range names {
		if skip.covers(p) {
			continue
		}
		b := get(base, p)
		up := get(base, parentOf(p))
		var torn, deleters, adders, dir, other, failed bool
		var first *snapshot.Entry // who touched it
		for _, q := range parents {
			e := get(q.Tree, p)
			dir, other = dir || isDir(e), other || e != nil && !isDir(e)
			torn = torn || isDir(b) && e != nil && !isDir(e)
			deleters = deleters || p != "" && isDir(up) && get(q.Tree, parentOf(p)) == nil
			adders = adders || b == nil && e != nil
			if first == nil && e != nil && b != nil && e.MTime != b.MTime && same(e, b) {
				first = e
			}
		}
		var who []int
		for i, q := range parents {
			e := get(q.Tree, p)
			dirty := false
			for _, x := range q.Tree.Under(p) {
				dirty = dirty || torn && isDir(e) && !same(&x, get(base, x.Path))
			}
			if !same(e, b) || dirty {
				who = append(who, i)
			}
		}
		conflict := func(kind snapshot.ConflictKind, i, j int) {
			failed = true
			conflicts = append(conflicts, snapshot.Conflict{Path: p, Kind: kind, Jobs: [2]string{parents[min(i, j)].Job, parents[max(i, j)].Job}})
		}
		if deleters && adders {
			d := slices.IndexFunc(parents, func(q party) bool { return get(q.Tree, parentOf(p)) == nil })
			conflict(snapshot.ConflictAddDeleted, who[0], d)
			skip.add(p)
			continue
		}
		res := b
		if first != nil {
			res = first
		}
		if len(who) > 0 {
			res = get(parents[who[0]].Tree, p)
		}
		for _, i := range who[min(1, len(who)):] {
			e := get(parents[i].Tree, p)
			switch {
			case same(res, e):
				continue
			case e == nil || res == nil:
				conflict(snapshot.ConflictDelete, who[0], i)
			case e.Type != res.Type:
				conflict(snapshot.ConflictType, who[0], i)
			default:
				conflict(snapshot.ConflictModify, who[0], i)
			}
			break
		}
		if failed && dir && other {
			skip.add(p)
			continue
		}
		for _, i := range who {
			if e := get(parents[i].Tree, p); failed && res == nil {
				res = e
			}
		}
		if !isDir(res) && (res != nil || !isDir(b)) {
			skip.add(p)
		}
		if res != nil {
			out.Entries = append(out.Entries, *res)
			if d := &out.Entries[len(out.Entries)-1]; isDir(d) && isDir(b) {
				d.MTime = b.MTime
				for _, q := range slices.Backward(parents) {
					if e := get(q.Tree, p); isDir(e) && e.MTime != b.MTime {
						d.MTime = e.MTime
					}
				}
			}
		}
	}
	return out, conflicts
}

// TestMergeWithAPolicyDecides: order, or a preference for everything, leaves no
// conflict, and what comes out is a tree.
func TestMergeWithAPolicyDecides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, true).Draw(t, "base")
		var parents []party
		for i := range rapid.IntRange(2, 4).Draw(t, "parents") {
			parents = append(parents, party{Job: fmt.Sprint(i), Tree: genTree(base, true).Draw(t, "parent")})
		}
		for _, o := range []MergeOptions{
			{Order: true},
			{Order: true, Atomic: []string{"a", "c/a"}},
			{Order: true, Caches: []string{"a/**", "b"}},
			{Prefer: []Prefer{{Glob: "**", Job: "1"}}},
			{Prefer: []Prefer{{Glob: "a", Job: "1"}, {Glob: "*/b", Job: "0"}}, Order: true},
		} {
			got, err := mergeTrees(base, parents, o)
			require.NoError(t, err)
			require.NoError(t, Validate(got.Tree))
			again, err := mergeTrees(base, parents, o)
			require.NoError(t, err)
			require.Equal(t, got, again)
		}
	})
}

func TestMergeOfOneChangeIsTheChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, true).Draw(t, "base")
		p := genTree(base, true).Draw(t, "p")
		o := MergeOptions{
			Atomic: []string{"a"}, Caches: []string{"b/**"},
			Same: func(_, _ *snapshot.Entry) (bool, error) { return false, fmt.Errorf("content was asked for") },
		}
		for _, trees := range [][]*snapshot.Manifest{{base, p}, {p, base}, {p, p}, {base, p, base}} {
			var parents []party
			for i, m := range trees {
				parents = append(parents, party{Job: fmt.Sprint(i), Tree: unhashed(m, "same")})
			}
			got, err := mergeTrees(unhashed(base, "same"), parents, o)
			require.NoError(t, err)
			require.Equal(t, unhashed(p, "same"), got.Tree)
			require.Zero(t, got.MTimeDivergence)
		}
	})
}

// TestMergeOrderOfParents: who comes first decides between times, never whether
// there is a conflict.
func TestMergeOrderOfParents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := genTree(nil, true).Draw(t, "base")
		x, y := genTree(base, true).Draw(t, "x"), genTree(base, true).Draw(t, "y")
		one, err1 := mergeTrees(base, []party{{"x", x}, {"y", y}}, MergeOptions{})
		two, err2 := mergeTrees(base, []party{{"y", y}, {"x", x}}, MergeOptions{})
		require.Equal(t, err1 == nil, err2 == nil)
		if err1 != nil {
			var a, b *snapshot.ConflictError
			require.ErrorAs(t, err1, &a)
			require.ErrorAs(t, err2, &b)
			require.Len(t, b.Conflicts, len(a.Conflicts))
			for i := range a.Conflicts {
				require.Equal(t, a.Conflicts[i].Path, b.Conflicts[i].Path)
				require.Equal(t, a.Conflicts[i].Kind, b.Conflicts[i].Kind)
			}
			return
		}
		require.Equal(t, one.MTimeDivergence, two.MTimeDivergence)
		require.Equal(t, paths(one.Tree), paths(two.Tree))
		for i := range one.Tree.Entries {
			require.True(t, one.Tree.Entries[i].SameButTime(&two.Tree.Entries[i]))
		}
	})
}

func TestMergeOfDisjointChangesIsTheirUnion(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var trees [3]*snapshot.Manifest
		var lists [3][]snapshot.Change
		root := snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755, MTime: 1}
		base := &snapshot.Manifest{Entries: []snapshot.Entry{root}}
		var changed []*snapshot.Manifest
		for i := range trees {
			b := genTree(nil, true).Draw(t, "part")
			changed = append(changed, under(fmt.Sprint("part", i), genTree(b, true).Draw(t, "changed")))
			trees[i] = under(fmt.Sprint("part", i), b)
			base.Entries = append(base.Entries, trees[i].Entries...)
		}
		want := &snapshot.Manifest{Entries: []snapshot.Entry{root}}
		var parents []party
		for i := range trees {
			want.Entries = append(want.Entries, changed[i].Entries...)
			lists[i] = Diff(trees[i], changed[i])
			tree, err := Apply(base, lists[i])
			require.NoError(t, err)
			parents = append(parents, party{Job: fmt.Sprint(i), Tree: tree})
		}
		got, err := mergeTrees(base, parents, MergeOptions{})
		require.NoError(t, err)
		require.Equal(t, want, got.Tree)
	})
}

// under is m moved into a directory.
func under(dir string, m *snapshot.Manifest) *snapshot.Manifest {
	out := &snapshot.Manifest{Entries: slices.Clone(m.Entries)}
	for i := range out.Entries {
		e := &out.Entries[i]
		e.Path = dir + "/" + e.Path
		if i == 0 {
			e.Path = dir
		}
		if e.Link != "" {
			e.Link = dir + "/" + e.Link
		}
	}
	return out
}
