package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestSmallStore runs more projects on a host than its store may keep, and kills it
// in the middle of making room: it evicts what the blob store has, takes jobs all
// the time, and a later job that wants an evicted tree gets it from the blob store.
func TestSmallStore(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	bin, err := failBinary()
	require.NoError(t, err)
	f := &fleet{t: t, dir: stateDir(t), bin: bin, agents: map[string]*proc{}}
	conf := filepath.Join(f.dir, "roost.toml")
	require.NoError(t, os.WriteFile(conf, []byte("[store]\nmax_bytes = \"30MiB\"\nhigh_water = 70\nlow_water = 40\n"), 0o600))
	f.agentArgs = []string{"--config", conf, "--room-every", "100ms"}
	f.startCoordinator(nil)
	t.Cleanup(f.stop)
	f.startAgent("host-a", []string{fail.Env + "=store.evict:2"})
	f.agents["host-a"].waitReady()

	const projects = 6
	pipeline := `
stages: [make, use]
make:
  stage: make
  script:
    - test -e big || head -c 8M /dev/urandom > big
    - test -e sum || sha256sum big > sum
use: {stage: use, script: ["sha256sum --check sum", "date >> big.log"]}
`
	for i := range projects {
		f.requireSuccess(f.run(fmt.Sprintf("small/%d", i), pipeline))
	}
	// 6 x 8 MiB do not fit: within some beats the first ones are gone.
	host := filepath.Join(f.dir, "host-a")
	require.Eventually(t, func() bool { return evictions(t, f.agents["host-a"]) >= 3 }, time.Minute, 100*time.Millisecond,
		"nothing was evicted:\n%s", tailFile(f.agents["host-a"].log.Name(), 30))
	require.Eventually(t, func() bool { return f.agents["host-a"].killed() > 0 }, time.Minute, 50*time.Millisecond)

	// The first project's tree is the longest unused one. Its next pipeline starts from
	// it all the same, and moves it.
	p := f.run("small/0", pipeline)
	f.requireSuccess(p)
	m := job(t, p, "make")
	require.Equal(t, api.OriginSeed, m.Workspace.Origin, "%+v", m.Workspace)
	require.Equal(t, api.StateFull, m.Workspace.State)
	require.Equal(t, api.SourceStore, m.Workspace.Source)
	require.Greater(t, m.Workspace.BytesMoved, int64(8<<20))
	// A stop that comes in the middle of a removal leaves its rest to the next start.
	f.agents["host-a"].stop()
	f.agentArgs = []string{"--config", conf, "--room-every", "1h"}
	f.startAgent("host-a", nil)
	f.agents["host-a"].waitReady()
	f.stop()
	requireNothingLeft(t, f.dir)
	views, err := os.ReadDir(filepath.Join(host, "views"))
	require.NoError(t, err)
	require.Less(t, len(views), 2*projects)
}

// evictions counts layers in an agent's log.
func evictions(t *testing.T, p *proc) int {
	b, err := os.ReadFile(p.log.Name())
	require.NoError(t, err)
	return strings.Count(string(b), ": evicted: ")
}
