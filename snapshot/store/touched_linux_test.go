package store

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// What a seal says of the size of the tree is what the tree has, whatever the job
// did; and it does say it where the view stood on nothing. What it is at most, it says
// always.
func TestSizeAtSeal(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	paths := []string{"a", "a/b", "a/c", "a/b/d", "e", "e/f"}
	rapid.Check(t, func(t *rapid.T) {
		act := func(dir string) {
			for i := range rapid.IntRange(0, 8).Draw(t, "steps") {
				p := filepath.Join(dir, rapid.SampledFrom(paths).Draw(t, "path"))
				var err error
				switch rapid.IntRange(0, 6).Draw(t, "what") {
				case 0, 1:
					err = os.WriteFile(p, make([]byte, rapid.IntRange(0, 5000).Draw(t, "size")), 0o644)
				case 2:
					err = os.RemoveAll(p)
				case 3:
					err = os.MkdirAll(p, 0o755)
				case 4:
					err = os.Chmod(p, 0o700)
				case 5:
					err = os.Rename(p, fmt.Sprintf("%s/moved%d", dir, i))
				case 6:
					err = os.Link(p, fmt.Sprintf("%s/linked%d", dir, i))
				}
				_ = err // some can't be done
			}
		}
		one := b.job(act)
		two := b.job(act, one.ID)
		for i, in := range []Info{one, two} {
			l := b.layers[in.ID]
			m, err := b.Tree(ctxOf(b.t), in.ID)
			require.NoError(t, err)
			if stacked(l.place()) {
				require.LessOrEqual(t, m.Bytes(), l.atMost)
			}
			if i == 0 && stacked(l.place()) || in.TreeBytes != 0 { // what Seal said
				require.Equal(t, m.Bytes(), in.TreeBytes, "job %d", i)
			}
			require.False(t, l.unsized)
		}
		require.NoError(t, b.Drop(ctxOf(b.t), two.ID))
		require.NoError(t, b.Drop(ctxOf(b.t), one.ID))
	})
}
