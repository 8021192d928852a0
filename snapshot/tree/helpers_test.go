package tree

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// mk makes a manifest of lines:
//
//	d/            a directory        f=text    a file
//	l->target     a symlink          p|        a fifo
//
// followed by any of @5 (mtime), 0755 (mode), #7 (owner), x:v (attribute user.x),
// and &g (hard-link group g). Parents that are not listed are made.
func mk(t testing.TB, lines ...string) *snapshot.Manifest {
	t.Helper()
	all := map[string]snapshot.Entry{}
	groups := map[string][]string{}
	for _, line := range append([]string{"/"}, lines...) {
		e, g := parse(t, line)
		all[e.Path] = e
		if g != "" {
			groups[g] = append(groups[g], e.Path)
		}
		for p := parentOf(e.Path); p != ""; p = parentOf(p) {
			if _, ok := all[p]; !ok {
				d, _ := parse(t, p+"/")
				all[p] = d
			}
		}
	}
	for _, g := range groups {
		slices.SortFunc(g, snapshot.ComparePaths)
		for _, p := range g {
			e := all[p]
			e.Link = g[0]
			all[p] = e
		}
	}
	m := &snapshot.Manifest{}
	for _, p := range slices.SortedFunc(maps.Keys(all), snapshot.ComparePaths) {
		m.Entries = append(m.Entries, all[p])
	}
	require.NoError(t, Validate(m), "%q", lines)
	return m
}

func parse(t testing.TB, line string) (e snapshot.Entry, group string) {
	words := strings.Fields(line)
	w := words[0]
	e.MTime = 1
	switch {
	case strings.HasSuffix(w, "/"):
		e.Path, e.Type, e.Mode = strings.TrimSuffix(w, "/"), snapshot.TypeDir, 0o755
	case strings.HasSuffix(w, "|"):
		e.Path, e.Type, e.Mode = strings.TrimSuffix(w, "|"), snapshot.TypeFifo, 0o644
	case strings.Contains(w, "->"):
		e.Type, e.Mode = snapshot.TypeSymlink, 0o777
		e.Path, e.Target, _ = strings.Cut(w, "->")
	default:
		text := ""
		e.Type, e.Mode = snapshot.TypeFile, 0o644
		e.Path, text, _ = strings.Cut(w, "=")
		setText(&e, text)
	}
	for _, w := range words[1:] {
		n, err := strconv.ParseInt(w[1:], 8, 64)
		switch {
		case w[0] == '&':
			group = w[1:]
		case w[0] == '@' && err == nil:
			e.MTime = n
		case w[0] == '#' && err == nil:
			e.UID = uint32(n)
		case w[0] == '0' && err == nil:
			e.Mode = uint32(n)
		default:
			k, v, ok := strings.Cut(w, ":")
			require.True(t, ok, line)
			e.Xattrs = append(e.Xattrs, snapshot.Xattr{Name: "user." + k, Value: []byte(v)})
		}
	}
	return e, group
}

func setText(e *snapshot.Entry, text string) {
	e.Size, e.Chunks = int64(len(text)), nil
	if text != "" {
		e.Chunks = []snapshot.Chunk{{Len: e.Size, ID: textID(text)}}
	}
}

// textID is a digest that shows its text, so that show can.
func textID(s string) snapshot.Digest {
	var d snapshot.Digest
	copy(d[:], s)
	if len(s) >= len(d) {
		d = sha256.Sum256([]byte(s))
	}
	return d
}

// unhashed is m as a scan has it: content known by where it lies alone. at tells
// apart trees; equal files of different trees are not known to be equal.
func unhashed(m *snapshot.Manifest, at string) *snapshot.Manifest {
	out := &snapshot.Manifest{Entries: slices.Clone(m.Entries)}
	for i := range out.Entries {
		if e := &out.Entries[i]; e.Type == snapshot.TypeFile && len(e.Chunks) > 0 {
			e.Source = "/" + at + "/" + text(e) + "/" + e.Path
			e.Chunks = nil
		}
	}
	return out
}

// text is the content of a file of mk or unhashed.
func text(e *snapshot.Entry) string {
	if e.Source != "" {
		return strings.Split(e.Source, "/")[2]
	}
	if len(e.Chunks) == 0 {
		return ""
	}
	return strings.TrimRight(string(e.Chunks[0].ID[:]), "\x00")
}

// party is a Parent whose tree is in memory.
type party struct {
	Job  string
	Tree *snapshot.Manifest
}

func partiesOf(parents []party) (out []Parent) {
	for _, p := range parents {
		out = append(out, Parent{p.Job, Of(p.Tree)})
	}
	return out
}

// mergedTree is a Merged in memory.
type mergedTree struct {
	Tree            *snapshot.Manifest
	MTimeDivergence int
}

// mergeTrees is Merge of trees in memory. It looks at the outcome from all sides.
func mergeTrees(base *snapshot.Manifest, parents []party, o MergeOptions) (*mergedTree, error) {
	return mergeTuned(base, parents, o, func(*merger) {})
}

func mergeTuned(base *snapshot.Manifest, parents []party, o MergeOptions, tune func(m *merger)) (*mergedTree, error) {
	in := partiesOf(parents)
	m, err := newMerger(in, o)
	if err != nil {
		return nil, err
	}
	tune(m)
	got, err := m.merge(Of(base), in)
	if err != nil {
		return nil, err
	}
	out := &mergedTree{MTimeDivergence: got.MTimeDivergence}
	for i, p := range parents {
		changes, err := got.Changes(i).List()
		if err != nil {
			return nil, err
		}
		tree, err := Over(Of(p.Tree), ChangesOf(changes)).Manifest(0)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			out.Tree = tree
		}
		same := slices.EqualFunc(tree.Entries, out.Tree.Entries, func(a, b snapshot.Entry) bool { return a.Equal(&b) })
		diff := Diff(p.Tree, tree)
		same = same && slices.EqualFunc(changes, diff, func(a, b snapshot.Change) bool { return a.Delete == b.Delete && a.Entry.Equal(&b.Entry) })
		if !same || len(changes) != got.Changed[i] {
			return nil, fmt.Errorf("changes of parent %d:\n%+v\nwant %+v", i, changes, diff)
		}
	}
	if n := len(out.Tree.Entries); n != got.Entries || out.Tree.Bytes() != got.Bytes {
		return nil, fmt.Errorf("%d entries of %d bytes, not %d of %d", n, out.Tree.Bytes(), got.Entries, got.Bytes)
	}
	return out, nil
}

// findMarks is what a merge of trees finds.
func findMarks(trees ...*snapshot.Manifest) marks {
	var in []Tree
	for _, m := range trees {
		in = append(in, Of(m))
	}
	k, s := newMarking(), newSieve(in)
	defer s.stop()
	err := s.run(func(p string) error {
		k.note(p, s.cur)
		return nil
	}, math.MaxInt, nil)
	if err != nil {
		panic(err)
	}
	return k.marks
}

// show is what mk would be given to make m, parents and all, without defaults.
func show(m *snapshot.Manifest) []string {
	out := []string{}
	for i := range m.Entries {
		e := &m.Entries[i]
		var s string
		mode := uint32(0o644)
		switch e.Type {
		case snapshot.TypeDir:
			s, mode = e.Path+"/", 0o755
		case snapshot.TypeSymlink:
			s, mode = e.Path+"->"+e.Target, 0o777
		case snapshot.TypeFifo:
			s = e.Path + "|"
		default:
			s = e.Path + "=" + text(e)
		}
		if e.MTime != 1 {
			s += fmt.Sprintf(" @%o", e.MTime)
		}
		if e.Mode != mode {
			s += fmt.Sprintf(" 0%o", e.Mode)
		}
		if e.UID != 0 {
			s += fmt.Sprintf(" #%o", e.UID)
		}
		for _, x := range e.Xattrs {
			s += fmt.Sprintf(" %s:%s", strings.TrimPrefix(x.Name, "user."), x.Value)
		}
		if e.Link != "" {
			s += " &" + e.Link
		}
		out = append(out, s)
	}
	return out[1:] // without the root
}

func TestHelpers(t *testing.T) {
	lines := []string{"a/", "a/f=text @5 0755 #7 k:v", "a/p| @2", "b=1 &b", "c=1 &b", "l->a"}
	m := mk(t, lines...)
	require.Equal(t, lines, show(m))
	require.Equal(t, lines, show(unhashed(m, "x")))
}
