package view

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

// A name that is taken stays as it is, and the error says what may be behind it: systems
// that take Name and name for the same come to it by the second one.
func TestNameTaken(t *testing.T) {
	p, err := newPlacer(t.TempDir(), false)
	require.NoError(t, err)
	defer p.close()
	f, err := p.create("name")
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, createErr := p.create("name")
	for _, err := range []error{createErr, p.mkdir("name"), p.symlink("target", "name"), p.link("name", "name")} {
		require.ErrorIs(t, err, fs.ErrExist)
		require.ErrorContains(t, err, "such as Name and name")
	}
	require.True(t, p.fileOf("name", 0))
}
