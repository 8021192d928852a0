package pack_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// BenchmarkUnchanged is what a layer of 100,000 entries costs in which nothing, or
// one entry in a hundred, changed: what changed, the tree from that, its digest.
func BenchmarkUnchanged(b *testing.B) {
	base := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}}}
	for i := range 100_000 / 26 {
		dir := fmt.Sprintf("module-%04d", i)
		base.Entries = append(base.Entries, snapshot.Entry{Path: dir, Type: snapshot.TypeDir, Mode: 0o755})
		for j := range 25 {
			e := snapshot.Entry{Path: fmt.Sprintf("%s/some_source_%02d.go", dir, j), Type: snapshot.TypeFile, Mode: 0o644, MTime: int64(i*j) << 20, Size: 5000}
			e.Chunks = []snapshot.Chunk{{Len: 5000, ID: snapshot.Digest{byte(i), byte(i >> 8), byte(j)}}}
			base.Entries = append(base.Entries, e)
		}
	}
	few := &snapshot.Manifest{Entries: slices.Clone(base.Entries)}
	for i := 7; i < len(few.Entries); i += 100 {
		few.Entries[i].MTime++
	}
	for _, c := range []struct {
		name string
		now  *snapshot.Manifest
	}{{"nothing", base}, {"one in 100", few}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				got, err := tree.Apply(base, tree.Diff(base, c.now))
				require.NoError(b, err)
				_, err = pack.ManifestDigest(got)
				require.NoError(b, err)
			}
		})
	}
}
