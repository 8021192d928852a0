//go:build failpoints && unix

package pack

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

const crashDir = "PACK_CRASH_DIR"

// crashChanges are the same in every process.
func crashChanges(dir string) (list []snapshot.Change) {
	for _, name := range []string{"a", "b", "c"} {
		list = append(list, snapshot.Change{Entry: snapshot.Entry{
			Path: name, Type: snapshot.TypeFile, Size: 9 << 20,
			Source: filepath.Join(dir, "src", name),
		}})
	}
	return list
}

// TestCrashChild is the process that dies.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("run by TestCrash")
	}
	w := &world{t: t, dir: dir}
	_, _, err := Encode(t.Context(), w.options(), crashChanges(dir))
	require.NoError(t, err)
}

// After kill -9 at any step each pack in Dir is whole, and a repeat makes the same
// index and no more packs.
func TestCrash(t *testing.T) {
	for _, point := range []string{
		"durable.synced", "durable.synced:3", "durable.renamed", "durable.renamed:2",
		"pack.committed", "pack.committed:3", "pack.verified", "pack.encoded",
	} {
		t.Run(point, func(t *testing.T) {
			w := newWorld(t)
			for i, c := range crashChanges(w.dir) {
				require.NoError(t, os.WriteFile(c.Entry.Source, noise(9<<20, uint64(i)), 0o600))
			}
			cmd := exec.Command(os.Args[0], "-test.run", "^TestCrashChild$")
			cmd.Env = append(os.Environ(), crashDir+"="+w.dir, fail.Env+"="+point)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%s", out)
			require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "%s", out)

			before, err := os.ReadDir(filepath.Join(w.dir, "packs"))
			require.NoError(t, err)
			for _, e := range before {
				d, err := snapshot.ParseDigest(e.Name())
				require.NoError(t, err)
				fi, err := e.Info()
				require.NoError(t, err)
				require.NoError(t, packIs(filepath.Join(w.dir, "packs", e.Name()), Pack{Digest: d, Bytes: fi.Size()}))
			}
			require.NoError(t, os.RemoveAll(filepath.Join(w.dir, "tmp"))) // what recovery does
			require.NoError(t, os.Mkdir(filepath.Join(w.dir, "tmp"), 0o700))
			ix, _, _ := w.roundtrip(w.options(), crashChanges(w.dir))
			after, err := os.ReadDir(filepath.Join(w.dir, "packs"))
			require.NoError(t, err)
			require.Len(t, after, len(ix.Packs))
		})
	}
}
