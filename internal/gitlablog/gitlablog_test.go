package gitlablog

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestHasTimes(t *testing.T) {
	of := func(v string) json.RawMessage { return json.RawMessage(`{"info":{"version":"` + v + `"}}`) }
	for _, c := range []struct {
		runner json.RawMessage
		flag   string
		want   bool
	}{
		{of("17.5.1"), "", false},
		{of("16.0.0"), "", false},
		{of("18.6.6"), "", false},
		{of("19.0.0"), "", true},
		{of("19.4.0~pre.12.gd79f3e7b"), "", true},
		{of("development version"), "", true},
		{nil, "", true},
		{of("19.4.0"), "false", false},
		{of("19.4.0"), "0", false},
		{of("17.5.1"), "true", true},
		{of("17.5.1"), "$OTHER", false},
	} {
		require.Equal(t, c.want, HasTimes(c.runner, c.flag), "%s %q", c.runner, c.flag)
	}
}

func TestLine(t *testing.T) {
	at := time.Date(2026, 11, 22, 1, 2, 3, 4000, time.FixedZone("x", 3600))
	require.Equal(t, "2026-11-22T00:02:03.000004Z 00O roost: x\n", string(Line(at, true, "roost: x")))
	require.Equal(t, "a b\tc d\n", string(Line(at, false, "a\nb\tc\xffd")))
	long := string(Line(at, false, strings.Repeat("ä", mostLine)))
	require.LessOrEqual(t, len(long), mostLine+8)
	require.True(t, strings.HasSuffix(long, "…\n"))
}
