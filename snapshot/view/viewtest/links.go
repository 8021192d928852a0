//go:build linux

package viewtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// Links makes lines of jobs that do little but make, move and break up groups of hard
// links, of files that are alike in size and time, and looks at each as the suite does.
// Behind each line stand layers as a stranger would write them, with Links that name
// anything: they must show what tree.Apply says. exact says that the driver keeps a
// group together whose file is written to; then a plain directory must look the same.
func (s Suite) Links(t *testing.T, seed uint64, lines int, exact bool) {
	for i := range lines {
		r := rand.New(rand.NewPCG(seed, uint64(i)))
		if !t.Run(fmt.Sprintf("line %d of seed %d", i, seed), func(t *testing.T) { s.line(t, r, exact) }) {
			return
		}
	}
}

func (s Suite) line(t *testing.T, r *rand.Rand, exact bool) {
	h := newHouse(t, s)
	plain := t.TempDir()
	require.NoError(t, os.Chmod(plain, 0o755))
	var last *snap
	for range 3 {
		steps := linkSteps(r)
		last = h.job(last, func(dir string) { h.relink(dir, steps) })
		if exact {
			h.relink(plain, steps)
			settle(t, plain, h.jobs)
			h.same(h.scan(plain), last.tree, "a plain directory looks otherwise")
		}
	}
	for range 4 {
		h.stranger(r, last, exact)
	}
}

// linkStep is one thing that a job does. What can't be done is not.
type linkStep struct {
	what, text string
	a, b       string
}

var linkDirs = []string{"", "d", "e", "e/f"}

func linkSteps(r *rand.Rand) []linkStep {
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	name := func() string { return filepath.Join(pick(linkDirs...), pick("a", "b", "c")) }
	steps := make([]linkStep, 4+r.IntN(12))
	for i := range steps {
		steps[i] = linkStep{
			what: pick("write", "write", "over", "link", "link", "link", "link", "move", "rm", "anew", "chmod", "movedir"),
			text: pick("", "1", "2", "33"), a: name(), b: name(),
		}
	}
	return steps
}

// relink does the steps in dir. Files stay alike: all have one time.
func (h *house) relink(dir string, steps []linkStep) {
	h.t.Helper()
	for _, d := range linkDirs {
		h.mkdir(dir, d)
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	has := func(p string) bool { _, err := os.Lstat(at(p)); return err == nil }
	for _, s := range steps {
		switch {
		case s.what == "write" && !has(s.a), s.what == "over" && has(s.a):
			h.write(dir, s.a, s.text)
		case s.what == "link" && has(s.a) && !has(s.b):
			require.NoError(h.t, os.Link(at(s.a), at(s.b)))
		case s.what == "move" && has(s.a) && s.a != s.b:
			h.move(dir, s.a, s.b)
		case s.what == "rm":
			h.rm(dir, s.a)
		case s.what == "anew": // the same text, but a file of its own
			if b, err := os.ReadFile(at(s.a)); err == nil {
				h.rm(dir, s.a)
				h.write(dir, s.a, string(b))
			}
		case s.what == "chmod" && has(s.a):
			h.chmod(dir, s.a, 0o600)
		case s.what == "movedir":
			h.move(dir, "d", "t")
			h.move(dir, "e/f", "d")
			h.move(dir, "t", "e/f")
		}
	}
}

// stranger unpacks a list on top of s that nobody of ours would write, if it can be
// applied at all.
func (h *house) stranger(r *rand.Rand, s *snap, raw bool) {
	h.t.Helper()
	list := strangeList(r, s.tree)
	want, err := tree.Apply(s.tree, list)
	if err != nil {
		return
	}
	if !raw || r.IntN(2) == 0 {
		list = tree.Relink(want, list) // as the store does
	}
	changes := slices.Clone(list)
	l, _, err := h.far.unpack(h.id(), s.far, s.there, changes, func(_ context.Context, write view.WriteFunc) error {
		done := map[string]bool{"": false}
		for i := range list {
			e := &list[i].Entry
			if list[i].Delete || e.Type != snapshot.TypeFile || e.Link != "" && done[e.Link] {
				continue
			}
			done[e.Link] = true
			if err := feed(e, func(off int64, p []byte) error { return write(i, off, p) }); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(h.t, err)
	h.mounted(h.far.d, l, want)
	require.NoError(h.t, h.far.d.Remove(h.ctx(), l))
}

// strangeList lists files of m as they are, copies of others in new places and
// deletions, with Links to whatever there is.
func strangeList(r *rand.Rand, m *snapshot.Manifest) []snapshot.Change {
	var files []snapshot.Entry
	links := []string{"no/where"}
	for _, e := range m.Entries {
		links = append(links, e.Path)
		if e.Type == snapshot.TypeFile {
			files = append(files, e)
		}
	}
	if len(files) == 0 {
		return nil
	}
	all := map[string]snapshot.Change{}
	alike := files[r.IntN(len(files))]
	for range 1 + r.IntN(6) {
		e := alike
		if r.IntN(3) == 0 {
			e = files[r.IntN(len(files))]
		}
		old := e
		switch r.IntN(4) {
		case 0:
			e.Path = files[r.IntN(len(files))].Path
		case 1:
			e.Path = filepath.Join(linkDirs[r.IntN(len(linkDirs))], string("abcxyz"[r.IntN(6)]))
		}
		all[e.Path] = snapshot.Change{Entry: e, Delete: r.IntN(6) == 0}
		links = append(links, e.Path, old.Path, old.Link)
	}
	var list []snapshot.Change
	for _, c := range all {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b snapshot.Change) int { return snapshot.ComparePaths(a.Entry.Path, b.Entry.Path) })
	for i := range list {
		if r.IntN(3) > 0 {
			list[i].Entry.Link = links[len(links)-1-r.IntN(min(12, len(links)))]
		}
	}
	return list
}
