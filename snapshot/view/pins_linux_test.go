package view

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelImages counts the images that the kernel has open, of all processes.
func kernelImages(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/sys/fs/erofs")
	require.NoError(t, err)
	n := 0
	for _, e := range names {
		if e.Name() != "features" {
			n++
		}
	}
	return n
}

// An image that is no longer mounted for anybody else ends with the release of a view
// on it, not with the seal.
func TestErofsRelease(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, m := h.unpack(nil, nil, map[string]string{"f": "f", "g": strings.Repeat("g", 5000)})
	on, other := h.prepare(l, nil), h.prepare(l, nil)
	require.Len(t, h.d.pins.on, 2)
	require.Equal(t, "f", h.get(on.Target, "f"))
	h.d.images.drop(l.Image)
	require.NoError(t, h.e.Discard(t.Context(), other))
	require.Len(t, h.d.pins.on, 1, "nobody is waiting for the end of a view that is discarded")
	require.NoError(t, h.e.Seal(t.Context(), on))
	require.Len(t, h.d.pins.on, 1)
	require.Positive(t, kernelImages(t))
	h.e.Release(on.ID)
	h.e.Release(on.ID)
	require.Empty(t, h.d.pins.on)
	h.shows(&on.Layer, map[string]string{"f": "f"})
	require.NotNil(t, m)
}

// A view on a warm image mounts none.
func TestErofsWarm(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, _ := h.unpack(nil, nil, map[string]string{"f": "f"})
	h.d.images.drop(l.Image)
	require.NoError(t, h.e.Warm(t.Context(), l))
	made := h.d.images.count
	v := h.prepare(l, nil)
	require.Equal(t, made, h.d.images.count)
	require.NoError(t, h.e.Discard(t.Context(), v))
	require.NoError(t, os.Truncate(h.d.abs(l.Image), 100))
	h.d.images.drop(l.Image)
	require.Error(t, h.e.Warm(t.Context(), l))
	require.NoError(t, h.e.Warm(t.Context(), &Layer{ID: l.ID}))
}
