package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot/view"
)

// What was renamed or copied is found in the base, wherever that has it, and not fetched.
func TestImportOfRenamed(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src := newBench(t, driver)
		dir := filepath.Join(t.TempDir(), "d")
		for i := range 100 {
			write(t, fmt.Sprintf("%s/here/%03d", dir, i), string(noise(3000, byte(i))))
		}
		write(t, filepath.Join(dir, "here/large"), string(noise(2<<20, 200)))
		one := src.create(dir, "")
		require.NoError(t, os.Rename(filepath.Join(dir, "here"), filepath.Join(dir, "there")))
		write(t, filepath.Join(dir, "copied"), string(noise(3000, 7)))
		write(t, filepath.Join(dir, "new"), "new")
		two := src.create(dir, one.ID)
		r := newRemote(t)
		first, then := r.upload(src, one.ID), r.upload(src, two.ID)
		for _, fewer := range []int{0, 30} { // in parts, where the driver can
			if fewer > 0 && driver != view.NameErofs {
				continue
			}
			dst := newBench(t, driver)
			dst.fewer = fewer
			require.NoError(t, dst.Import(t.Context(), first, r.open, nil))
			open, fetched := counting(r)
			require.NoError(t, dst.Import(t.Context(), then, open, nil))
			require.Less(t, fetched.Load(), then.IndexBytes+1000)
			require.Equal(t, two.Manifest, dst.requireTree(two.ID))
			require.NoError(t, dst.Verify(t.Context(), two.ID))
		}
	})
}
