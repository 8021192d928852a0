package view

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

const (
	gatherA = "views/00000000000000000000000001"
	gatherB = "views/00000000000000000000000002"
)

func TestReliesOn(t *testing.T) {
	a := &Layer{Dir: gatherA + "/u00000000000000000000000001"}
	for want, list := range map[bool][]Layer{
		true: {
			{Lowers: []string{"x", a.Dir}, Image: "i", Counted: true},
			{Image: "i", Data: []string{gatherA}},                                                   // made before it was counted
			{Lowers: []string{"x"}, Image: "i", Data: []string{gatherB, gatherA}},                   // stubs of a merge
			{Image: "i", Data: []string{gatherA}, Counted: true, Small: map[string]int{gatherA: 1}}, // by name
			{Lowers: []string{"x"}, Data: []string{gatherA}, Counted: true},                         // no image
		},
		false: {
			{Image: "i", Data: []string{gatherA, gatherB}, Counted: true, Small: map[string]int{gatherB: 1}}, // large ones only
			{Image: "i", Data: []string{gatherB}},
			{Lowers: []string{gatherB + "/u00000000000000000000000002"}},
		},
	} {
		for i := range list {
			require.Equal(t, want, list[i].ReliesOn(a), "%v %d", want, i)
		}
	}
}

func TestBundleAt(t *testing.T) {
	for tag, want := range map[string]string{
		"00000000000000000000000001":  gatherA + "/u00000000000000000000000001/bundle",
		"c00000000000000000000000001": gatherA + "/c00000000000000000000000001/bundle",
		"c0000000000000000000000001":  "views/c0000000000000000000000001/uc0000000000000000000000001/bundle",
	} {
		at, err := bundleAt(tag)
		require.NoError(t, err)
		require.Equal(t, want, at)
		_, err = bundleOwner(at)
		require.NoError(t, err)
	}
	for _, tag := range []string{"", "c", "u00000000000000000000000001", "../0000000000000000000000001", "cc0000000000000000000000000x"} {
		_, err := bundleAt(tag)
		require.Error(t, err, tag)
	}
	_, err := bundleOwner(gatherA + "/i00000000000000000000000001/bundle")
	require.Error(t, err)
}

// A job's names mean nothing to where its bundle lies, and a file that is not as its
// tree says is not gathered.
func TestGatherTakesOwnFilesOnly(t *testing.T) {
	h := newErofsHost(t, Options{})
	base, bm := h.gathered(nil, nil, "base")
	l, m := h.gathered(base, bm, "bundle", "packed", "c"+string(base.ID)+"/bundle", "base2")
	require.True(t, l.Gathered)
	require.Len(t, l.Devices, 2)
	require.Empty(t, l.Small)
	require.Empty(t, l.Data)
	want := map[string]string{}
	for _, n := range []string{"base", "bundle", "packed", "c" + string(base.ID) + "/bundle"} {
		want[n] = "content of " + n
	}
	h.shows(l, want)
	require.NoError(t, h.e.Prune(t.Context(), l, TreeOf(m)))
	require.NoError(t, h.e.Prune(t.Context(), base, TreeOf(bm)))
	h.shows(l, want)
	_, err := h.e.Changes(t.Context(), l, bm)
	require.ErrorIs(t, err, errPruned)

	short, sm := h.wrote(base, bm, "short", "other")
	require.NoError(t, os.Truncate(h.e.abs(short.Dir+"/short"), 3))
	_, _, err = h.e.Gather(t.Context(), short, TreeOf(sm))
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, err, &corrupt)
	_, err = os.Lstat(h.e.abs(gatheredOf(short.ID)))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// wrote is a layer of a job that wrote files, and its tree.
func (h *ehost) wrote(base *Layer, from *snapshot.Manifest, names ...string) (*Layer, *snapshot.Manifest) {
	h.t.Helper()
	return h.job(base, from, func(dir string) {
		for _, n := range names {
			h.put(dir, n, "content of "+n)
		}
	})
}

// gathered is the same with its small files gathered.
func (h *ehost) gathered(base *Layer, from *snapshot.Manifest, names ...string) (*Layer, *snapshot.Manifest) {
	h.t.Helper()
	l, m := h.wrote(base, from, names...)
	p, to, err := h.e.Gather(h.t.Context(), l, TreeOf(m))
	require.NoError(h.t, err)
	m, err = to.Manifest(0)
	require.NoError(h.t, err)
	return h.image(p, base, m), m
}
