package store

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestFlippedSources flips bits in the files that only this host has: lists of
// sources and merges. None is taken for what it was, whatever stands in it. It is a
// part of the promises (docs/promises.md), which say how many.
func TestFlippedSources(t *testing.T) {
	began := time.Now()
	n := map[string]int{"ci": 4_000, "full": 100_000}[os.Getenv("ROOST_PROMISES")]
	if n == 0 {
		n = 500
	}
	b := newBench(t, view.NameCopy)
	base := b.job(func(dir string) { write(t, dir+"/base", "x") })
	left := b.job(func(dir string) { write(t, dir+"/left/a", "l") }, base.ID)
	right := b.job(func(dir string) { write(t, dir+"/right/b", "r") }, base.ID)
	both := b.job(nil, left.ID, right.ID)
	b.packed(base.ID, left.ID, right.ID, both.ID)
	for name, magic := range map[string]string{b.srcPath(both.ID): srcMagic, b.faninPath(both.ID): faninMagic} {
		good, err := os.ReadFile(name)
		require.NoError(t, err)
		path := t.TempDir() + "/flipped"
		for range n / 2 {
			bad := bytes.Clone(good)
			bit := rand.IntN(len(bad) * 8)
			bad[bit/8] ^= 1 << (bit % 8)
			require.NoError(t, os.WriteFile(path, bad, 0o600))
			_, err := readSummed(path, magic)
			require.Error(t, err, "bit %d of %s", bit, name)
			if bit/8 == len(magic)-1 && bad[bit/8] > good[bit/8] {
				require.ErrorIs(t, err, snapshot.ErrNewerFormat)
			}
		}
	}
	if out := os.Getenv("ROOST_PROMISES_OUT"); out != "" {
		line, err := json.Marshal(map[string]any{
			"promise": "flipped bits", "test": t.Name(), "count": n, "seconds": time.Since(began).Seconds(),
			"text": "lists of sources and merges, all refused",
		})
		require.NoError(t, err)
		f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		require.NoError(t, err)
		_, err = f.WriteString(strings.TrimSpace(string(line)) + "\n")
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
}
