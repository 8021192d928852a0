package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestDamagedBlobComesFromItsHolder flips a bit in every blob of the coordinator's
// store. A job on another host, which needs them, finds that out before it starts; the
// host that still has the tree makes the blobs again, and the job goes on.
func TestDamagedBlobComesFromItsHolder(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	f := newFleet(t, roostBinary(t), 2)
	f.requireSuccess(f.run("damage", `
make: {tags: [host-a], script: ["head -c 3M /dev/urandom > big", "sha256sum big > sum", "for i in $(seq 50); do echo $i > f$i; done"]}
`))
	// Durable, and the packs gone from the host.
	f.waitUploaded("host-a", 2)
	blobs := f.blobs()
	require.NotEmpty(t, blobs)
	for _, path := range blobs {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		b[len(b)/2] ^= 1
		require.NoError(t, os.WriteFile(path, b, 0o600))
	}
	p := f.run("damage", `
make: {tags: [host-b], script: ["sha256sum --check sum", "test $(cat f50) = 50"]}
`)
	f.requireSuccess(p)
	m := job(t, p, "make")
	require.Equal(t, "host-b", m.Host)
	require.Equal(t, api.StateFull, m.Workspace.State, "%+v", m.Workspace)
	require.Equal(t, api.SourceStore, m.Workspace.Source)
	bad, err := filepath.Glob(filepath.Join(f.dir, "coordinator", "blobs", "bad", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, bad)
	f.stop()
	requireNothingLeft(t, f.dir)
}
