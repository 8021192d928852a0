package view

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// An image that is no longer mounted for anybody else ends behind the seal of the last
// view on it.
func TestErofsEndsBehind(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, _ := h.unpack(nil, nil, map[string]string{"f": "f", "g": strings.Repeat("g", 5000)})
	on, other := h.prepare(l, nil), h.prepare(l, nil)
	require.Len(t, h.d.pins.on, 2)
	require.Equal(t, "f", h.get(on.Target, "f"))
	h.d.images.drop(l.Image)
	require.NoError(t, h.e.Discard(t.Context(), other))
	require.Len(t, h.d.pins.on, 1, "nobody is waiting for the end of a view that is discarded")
	require.NoError(t, h.e.Seal(t.Context(), on))
	h.d.pins.soon.Wait()
	require.Empty(t, h.d.pins.on)
	h.shows(&on.Layer, map[string]string{"f": "f"})
	last := h.prepare(l, nil)
	require.NoError(t, h.e.Close())
	require.Empty(t, h.d.pins.on)
	require.Equal(t, "f", h.get(last.Target, "f"))
	require.NoError(t, h.e.Discard(t.Context(), last))
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
