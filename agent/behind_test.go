package agent

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot/store"
)

// What others must have before a layer is what its index is against, not what it
// stands on here; and what it costs them is all that they fetch.
func TestLayerRefIsOfTheWire(t *testing.T) {
	require.Empty(t, layerRef(store.Info{ID: "c", Base: "b"}, true).Base)
	require.EqualValues(t, "b", layerRef(store.Info{ID: "c", Base: "b", WireBase: "b"}, true).Base)
	require.EqualValues(t, 1000, layerRef(store.Info{ID: "c", StoredBytes: 10, FetchBytes: 1000}, true).StoredBytes)
	require.EqualValues(t, 10, layerRef(store.Info{ID: "c", StoredBytes: 10, FetchBytes: 1000}, true).OwnBytes)
	require.Zero(t, layerRef(store.Info{ID: "c", StoredBytes: 10, FetchBytes: 10}, true).OwnBytes)
}
