package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/backing"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestDriverWords: configuration takes what there is, and nothing else.
func TestDriverWords(t *testing.T) {
	require.ElementsMatch(t, configs.Drivers, append(view.Names(), "auto"))
}

// TestBackingSize: the least size that configuration takes is what a backing takes.
func TestBackingSize(t *testing.T) {
	require.Equal(t, 320<<20, backing.MinSize)
	_, err := configs.Parse("[store]\nbacking_size = \"320MiB\"\n", nil)
	require.NoError(t, err)
	_, err = configs.Parse("[store]\nbacking_size = \"319MiB\"\n", nil)
	require.ErrorContains(t, err, "store.backing_size")
}
