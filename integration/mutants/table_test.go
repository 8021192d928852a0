package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlaces: each mutant's place is in the source, so that who moves it hears of it
// before the mutants run.
func TestPlaces(t *testing.T) {
	for _, m := range mutants {
		b, err := os.ReadFile(filepath.Join("..", "..", filepath.FromSlash(m.file)))
		require.NoError(t, err, m.name)
		require.Equal(t, 1, m.places(b), "%s: bring table.go up to date", m.name)
	}
}
