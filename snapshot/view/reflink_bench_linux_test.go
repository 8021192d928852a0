package view

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
)

// BenchmarkReflink is Prepare of a view of 20,000 files by clones, beside the copy
// tool of the system that does the same.
func BenchmarkReflink(b *testing.B) {
	for _, kind := range []string{testenv.XFS, testenv.Btrfs} {
		b.Run(kind, func(b *testing.B) {
			root := testenv.Disk(b, kind, 2<<30)
			d, err := NewReflink(filepath.Join(root, "s"), Options{Owners: true})
			require.NoError(b, err)
			v, err := d.Prepare(b.Context(), Spec{ID: newID(b), Target: filepath.Join(root, "t")})
			require.NoError(b, err)
			for i := range 20_000 {
				p := filepath.Join(v.Target, fmt.Sprint(i/100), fmt.Sprint(i))
				if i%100 == 0 {
					require.NoError(b, os.MkdirAll(filepath.Dir(p), 0o755))
				}
				require.NoError(b, os.WriteFile(p, []byte("content"), 0o644))
			}
			require.NoError(b, d.Seal(b.Context(), v))
			require.NoError(b, d.Sync(b.Context(), &v.Layer))
			b.Run("prepare", func(b *testing.B) {
				for b.Loop() {
					w, err := d.Prepare(b.Context(), Spec{ID: newID(b), Base: &v.Layer, Target: filepath.Join(root, "t")})
					require.NoError(b, err)
					b.StopTimer()
					require.NoError(b, d.Discard(b.Context(), w))
					b.StartTimer()
				}
			})
			b.Run("cp", func(b *testing.B) {
				from := filepath.Join(root, "s", filepath.FromSlash(v.Layer.Dir))
				for b.Loop() {
					to := filepath.Join(root, "cp")
					out, err := exec.Command("cp", "-a", "--reflink=always", from, to).CombinedOutput()
					require.NoError(b, err, "%s", out)
					b.StopTimer()
					require.NoError(b, os.RemoveAll(to))
					b.StartTimer()
				}
			})
		})
	}
}
