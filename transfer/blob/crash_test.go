//go:build failpoints

package blob_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/transfer/blob"
	"github.com/roost-ci/roost/transfer/blob/blobtest"
)

const crashDir = "ROOST_TEST_BLOB_DIR"

// A process killed at any step of a Put leaves the blob whole or not there, and the next
// process finds no litter.
func TestCrash(t *testing.T) {
	b, d := blobtest.Random(1, 1<<20)
	if dir := os.Getenv(crashDir); dir != "" {
		s, err := blob.OpenDir(dir, blob.DirOptions{})
		require.NoError(t, err)
		blobtest.Put(t, s, b)
		return
	}
	for _, c := range []struct {
		point string
		there bool
	}{
		{"blob.received", false},
		{"durable.synced", false},
		{"durable.renamed", true},
		{"blob.committed", true},
	} {
		t.Run(c.point, func(t *testing.T) {
			dir := t.TempDir()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrash$") //nolint:gosec // this test
			cmd.Env = append(os.Environ(), crashDir+"="+dir, fail.Env+"="+c.point)
			out, err := cmd.CombinedOutput()
			var died *exec.ExitError
			require.ErrorAs(t, err, &died, "it was not killed: %s", out)
			require.Equal(t, -1, died.ExitCode(), "it ended by itself: %s", out)

			s := openDir(t, dir, blob.DirOptions{})
			require.Empty(t, names(t, filepath.Join(dir, "tmp")))
			size, err := s.Stat(context.Background(), d)
			if c.there {
				require.NoError(t, err)
				require.EqualValues(t, len(b), size)
			} else if !errors.Is(err, snapshot.ErrNotFound) {
				t.Fatalf("Stat: %v", err)
			}
			blobtest.Put(t, s, b)
			got, err := blobtest.Get(t.Context(), s, d, 0, -1)
			require.NoError(t, err)
			require.True(t, bytes.Equal(b, got))
		})
	}
}
