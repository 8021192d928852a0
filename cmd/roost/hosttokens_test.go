package main

import (
	"os"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
)

// A host's token is good from when it is made until it is taken back, without a restart.
func TestHostTokens(t *testing.T) {
	dir := t.TempDir()
	_, err := makeHostToken(dir, "host-a")
	require.Error(t, err, "the coordinator was never started")
	shared, err := ensureToken(dir + "/agent.token")
	require.NoError(t, err)
	ts := newHostTokens(dir, hclog.NewNullLogger())
	require.Empty(t, ts.hostOf(shared))
	a, err := makeHostToken(dir, "host-a")
	require.NoError(t, err)
	b, err := makeHostToken(dir, "../b /x")
	require.NoError(t, err)
	again, err := makeHostToken(dir, "host-a")
	require.NoError(t, err)
	require.Equal(t, a, again)
	require.NotEqual(t, a, b)
	require.Equal(t, "host-a", ts.hostOf(a))
	require.Equal(t, "../b /x", ts.hostOf(b))
	require.Empty(t, ts.hostOf(""))
	require.Empty(t, ts.hostOf(shared))
	require.NoError(t, os.Chmod(hostTokenFile(dir, "../b /x"), 0o644))
	require.NoError(t, revokeHostToken(dir, "host-a"))
	require.Empty(t, ts.hostOf(a))
	require.Error(t, revokeHostToken(dir, "host-a"))
	if !ignoreModes {
		require.Empty(t, ts.hostOf(b), "others could have read it")
	}
}
