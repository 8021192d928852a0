package pack

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

func TestSampleRate(t *testing.T) {
	w := newWorld(t)
	m := &snapshot.Manifest{}
	for i := range 200 {
		m.Entries = append(m.Entries, w.file(fmt.Sprintf("f%03d", i), text(20<<10, uint64(i))).Entry)
	}
	out, _ := sample(m, 1<<20)
	var n int64
	for _, c := range out {
		n += c.Entry.Size
	}
	require.Less(t, n, int64(1<<20+21<<10))
	require.Greater(t, n, int64(900<<10))
	require.Greater(t, out[len(out)-1].Entry.Path, "f190", "the sample ends before the tree does")

	rate, ratio, err := SampleRate(t.Context(), m, 1<<20)
	require.NoError(t, err)
	require.Positive(t, rate)
	require.True(t, ratio > 0.01 && ratio < 0.5, "ratio %v", ratio)
	require.Nil(t, m.Entries[0].Chunks, "the manifest was touched")
}

func TestSampleOfOneLargeFile(t *testing.T) {
	w := newWorld(t)
	m := &snapshot.Manifest{Entries: []snapshot.Entry{w.file("big", noise(24<<20, 1)).Entry}}
	rate, ratio, err := SampleRate(t.Context(), m, 6<<20)
	require.NoError(t, err)
	require.Positive(t, rate)
	require.InDelta(t, 1, ratio, 0.01)

	_, _, err = SampleRate(t.Context(), &snapshot.Manifest{}, 6<<20)
	require.NoError(t, err)
}
