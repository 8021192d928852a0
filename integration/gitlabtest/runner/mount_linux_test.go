package runner_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func mount(t *testing.T, dir string) {
	require.NoError(t, syscall.Mount("none", dir, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
}
