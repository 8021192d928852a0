package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/internal/backing"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestBackingOfAStore: an agent that asks for a backing gets a store whose files
// are cloned, finds it again, is not let onto an empty directory without it, and
// leaves neither mount nor loop device when all is forgotten.
func TestBackingOfAStore(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, testenv.Overlay, "mkfs.xfs")
	state := filepath.Join(t.TempDir(), "state")
	dir := filepath.Join(state, "h1")
	require.NoError(t, os.MkdirAll(state, 0o700))
	for _, name := range []string{"lock", "holder"} {
		require.NoError(t, os.WriteFile(filepath.Join(state, name), nil, 0o600))
	}
	t.Cleanup(func() { backing.Release(context.WithoutCancel(t.Context()), dir, "") }) //nolint:errcheck // only if the test failed
	cfg := configs.Default().Store
	cfg.Backing, cfg.BackingSize, cfg.BackingSpace = configs.XFSLoop, "320MiB", configs.Sparse
	open := func() *store.Store {
		t.Helper()
		require.NoError(t, ensureBacking(t.Context(), dir, cfg, hclog.NewNullLogger()))
		st, err := store.Open(t.Context(), dir, store.Options{
			Owners: true,
			Driver: func(dir string) (view.Driver, error) {
				return view.Open(view.NameReflink, dir, view.Options{Owners: true})
			},
		})
		require.NoError(t, err)
		return st
	}
	st := open()
	require.Equal(t, view.NameReflink, st.Driver().Name())
	require.NoError(t, st.Close())

	require.NoError(t, unix.Unmount(dir, 0)) // as after a reboot
	off := cfg
	off.Backing = "none"
	require.ErrorContains(t, ensureBacking(t.Context(), dir, off, hclog.NewNullLogger()), "store.backing is none")
	st = open()
	require.FileExists(t, filepath.Join(dir, "store.db"))
	require.NoError(t, ensureBacking(t.Context(), dir, off, hclog.NewNullLogger()), "mounted already")
	require.NoError(t, st.Close())

	require.NoError(t, forget(t.Context(), state))
	require.NoDirExists(t, state)
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(b), state)
	require.Empty(t, testenv.Loops(t, state), "a loop device is left")
}
