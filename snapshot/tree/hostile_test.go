package tree

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// genHostile draws entries in which anything may be wrong, near enough to right
// ones that many get far.
func genHostile() *rapid.Generator[snapshot.Entry] {
	pick := func(t *rapid.T, what string, right string, wrong ...string) string {
		if rapid.IntRange(0, 15).Draw(t, what+" wrong") > 0 {
			return right
		}
		return rapid.SampledFrom(wrong).Draw(t, what)
	}
	return rapid.Custom(func(t *rapid.T) snapshot.Entry {
		names := []string{"", "a", "a/b", "a/b/c", "a-b", "b", "b/a", "c"}
		e := snapshot.Entry{
			Path: pick(t, "path", rapid.SampledFrom(names).Draw(t, "name"), "..", "a/..", "/", "a//b", "a\x00", "./a", "a/"),
			Type: snapshot.Type(rapid.SampledFrom([]int{1, 1, 1, 2, 2, 2, 3, 4, 5, 0, 6}).Draw(t, "type")),
			Mode: rapid.SampledFrom([]uint32{0o644, 0o755, 0o4755, 0o100644}).Draw(t, "mode"),
		}
		switch e.Type {
		case snapshot.TypeFile:
			e.Size = rapid.SampledFrom([]int64{0, 0, 1, 8, -1, 1 << 40}).Draw(t, "size")
			e.Link = rapid.SampledFrom(append(names, "", "", "", "..")).Draw(t, "link")
			for range rapid.IntRange(0, 2).Draw(t, "chunks") {
				e.Chunks = append(e.Chunks, snapshot.Chunk{
					Off: rapid.Int64Range(-1, 9).Draw(t, "off"), Len: rapid.Int64Range(0, 9).Draw(t, "len"), ID: textID("x"),
				})
			}
		case snapshot.TypeSymlink:
			e.Target = pick(t, "target", "/etc/passwd", "", "x\x00")
		}
		return e
	})
}

// TestApplyOfAnything: whatever the changes say, either they are refused or the
// outcome is a valid manifest.
func TestApplyOfAnything(t *testing.T) {
	applied, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var base *snapshot.Manifest
		if rapid.Bool().Draw(t, "based") {
			base = genTree(nil, true).Draw(t, "base")
		}
		var ch []snapshot.Change
		for _, e := range rapid.SliceOfN(genHostile(), 0, 5).Draw(t, "entries") {
			ch = append(ch, snapshot.Change{
				Delete: rapid.IntRange(0, 5).Draw(t, "delete") == 0, Replace: rapid.IntRange(0, 7).Draw(t, "replace") == 0, Entry: e,
			})
		}
		slices.SortFunc(ch, func(a, b snapshot.Change) int { return snapshot.ComparePaths(a.Entry.Path, b.Entry.Path) })
		if rapid.Bool().Draw(t, "distinct") {
			ch = slices.CompactFunc(ch, func(a, b snapshot.Change) bool { return a.Entry.Path == b.Entry.Path })
		}
		got, err := Apply(base, ch)
		if err != nil {
			refused++
			return
		}
		applied++
		require.NoError(t, Validate(got), "%+v", ch)
	})
	t.Logf("%d applied, %d refused", applied, refused)
	if !testing.Short() { // which draws too few for chance to be fair
		require.NotZero(t, applied)
		require.NotZero(t, refused)
	}
}

// TestValidateOfAnything: no list of entries makes it panic, and one that passes
// survives a way through Diff and Apply.
func TestValidateOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &snapshot.Manifest{Entries: rapid.SliceOfN(genHostile(), 0, 6).Draw(t, "entries")}
		if rapid.Bool().Draw(t, "sorted") {
			slices.SortFunc(m.Entries, func(a, b snapshot.Entry) int { return snapshot.ComparePaths(a.Path, b.Path) })
		}
		err := Validate(m)
		var ce *snapshot.CorruptError
		if err != nil {
			require.True(t, errors.As(err, &ce))
			return
		}
		got, err := Apply(nil, Diff(nil, m))
		require.NoError(t, err)
		require.Equal(t, m, got)
	})
}
