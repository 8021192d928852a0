package tree

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// bigTree has n files in directories of 50, and the directories.
func bigTree(n int) *snapshot.Manifest {
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}}}
	top := ""
	for i := range n {
		if i%2500 == 0 {
			top = fmt.Sprintf("node_modules-%06d", i/2500)
			m.Entries = append(m.Entries, snapshot.Entry{Path: top, Type: snapshot.TypeDir, Mode: 0o755, MTime: 1})
		}
		d := fmt.Sprintf("%s/some-package-%02d", top, i/50%50)
		if i%50 == 0 {
			m.Entries = append(m.Entries, snapshot.Entry{Path: d, Type: snapshot.TypeDir, Mode: 0o755, MTime: 1})
		}
		e := snapshot.Entry{Path: fmt.Sprintf("%s/component-%02d.js", d, i%50), Type: snapshot.TypeFile, Mode: 0o644, MTime: int64(i)}
		setText(&e, fmt.Sprint(i))
		m.Entries = append(m.Entries, e)
	}
	return m
}

// edited is m with every k-th file changed, from the first-th on, as a view makes
// it: what is unchanged shares its strings and chunks with m.
func edited(b testing.TB, m *snapshot.Manifest, first, k int) *snapshot.Manifest {
	var ch []snapshot.Change
	files := 0
	for i := range m.Entries {
		if e := m.Entries[i]; e.Type == snapshot.TypeFile {
			if files >= first && (files-first)%k == 0 {
				setText(&e, "changed")
				e.MTime++
				ch = append(ch, snapshot.Change{Entry: e})
			}
			files++
		}
	}
	out, err := Apply(m, ch)
	require.NoError(b, err)
	return out
}

// foreign is m as another process would have read it: nothing is shared.
func foreign(m *snapshot.Manifest) *snapshot.Manifest {
	out := &snapshot.Manifest{Entries: slices.Clone(m.Entries)}
	for i := range out.Entries {
		e := &out.Entries[i]
		e.Path = string([]byte(e.Path))
		e.Chunks = slices.Clone(e.Chunks)
	}
	return out
}

func BenchmarkMerge(b *testing.B) {
	for _, c := range []struct{ files, parents int }{{100_000, 2}, {100_000, 8}, {1_000_000, 2}} {
		base := bigTree(c.files)
		var parents []party
		for i := range c.parents {
			parents = append(parents, party{Job: fmt.Sprint("job", i), Tree: edited(b, base, i, 300)})
		}
		for _, same := range []bool{true, false} {
			name := fmt.Sprintf("files=%d/parents=%d/shared=%v", c.files, c.parents, same)
			if !same {
				for i := range parents {
					parents[i].Tree = foreign(parents[i].Tree)
				}
			}
			o := MergeOptions{Atomic: []string{"build/**", "**/target/**"}, Caches: []string{".cache/**"}}
			b.Run(name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					got, err := Merge(Of(base), partiesOf(parents), o)
					require.NoError(b, err)
					require.Len(b, base.Entries, got.Entries)
				}
				b.ReportMetric(float64(c.files)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
			})
		}
	}
}

func BenchmarkManifest(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		m := bigTree(n)
		e := edited(b, m, 0, 300)
		ch := Diff(m, e)
		for name, f := range map[string]func() error{
			"diff":     func() error { _ = Diff(m, e); return nil },
			"new":      func() error { _ = Diff(nil, m); return nil },
			"apply":    func() error { _, err := Apply(m, ch); return err },
			"same":     func() error { _, err := Apply(m, Diff(m, m)); return err },
			"validate": func() error { return Validate(m) },
			"over":     func() error { return Over(Of(m), ChangesOf(ch))(func(*snapshot.Entry) error { return nil }) },
		} {
			b.Run(fmt.Sprintf("%s/files=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, f())
				}
				b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "files/s")
			})
		}
	}
}
