package view

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPathTable(t *testing.T) {
	var table pathTable
	var want []string
	for i := range 5 * pathGroup {
		p := fmt.Sprintf("%s%d/%s", strings.Repeat("d/", i%3), i, strings.Repeat("n", i*7%250))
		if i == 70 {
			p = ""
		}
		want = append(want, p)
		table.add(p, i%5 > 0)
	}
	for i := len(want) - 1; i >= 0; i-- {
		p, file := table.find(i)
		require.Equal(t, want[i], p)
		require.Equal(t, i%5 > 0, file)
	}
	for _, i := range []int{-1, len(want), 1 << 40} {
		_, file := table.find(i)
		require.False(t, file)
	}
}
