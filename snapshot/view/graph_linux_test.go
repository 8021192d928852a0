package view

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnerOfGraph(t *testing.T) {
	for _, id := range []string{"f" + strings.Repeat("0", 25), "mf" + strings.Repeat("1", 24), strings.Repeat("a", 26)} {
		for _, prefix := range []string{"", fixupPrefix, flatPrefix} {
			got, err := ownerOfGraph(prefix + id)
			require.NoError(t, err)
			require.EqualValues(t, id, got)
		}
		_, err := ownerOfGraph("x" + id)
		require.Error(t, err)
	}
}
