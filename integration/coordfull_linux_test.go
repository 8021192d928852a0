package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestCoordinatorFullDisk fills the disk that has the coordinator's state and its blobs:
// whoever wants something is told why he does not get it, what was said to be kept is
// kept, and all goes on once there is room again, without anybody's help.
func TestCoordinatorFullDisk(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Loop, testenv.Bash)
	f := &fleet{t: t, dir: stateDir(t), bin: roostBinary(t), agents: map[string]*proc{}}
	disk := filepath.Join(f.dir, "coordinator")
	smallDisk(t, disk, "96")
	f.startCoordinator(nil)
	t.Cleanup(f.stop)
	for _, name := range []string{"host-a", "host-b"} {
		f.startAgent(name, nil)
		f.agents[name].waitReady()
	}
	submit := func(project string) (*api.Submitted, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return f.client.Submit(ctx, ulid.Make().String(), api.Submit{
			Project: project, File: "test.yml", Text: `job: {tags: [nobody], script: ["true"]}`,
		})
	}
	f.requireSuccess(f.run("before", `job: {tags: [host-a], script: ["echo kept > f"]}`))

	// What can't be uploaded stays on its host, and jobs there go on. Who needs it
	// elsewhere waits, and hears for what.
	ballast := filepath.Join(disk, "ballast")
	more(t, ballast, 60<<20)
	id := f.submit("large", `
stages: [one, two]
make: {stage: one, tags: [host-a], script: ["head -c 40M /dev/urandom > big", "sha256sum big > sum"]}
here: {stage: two, tags: [host-a], script: ["sha256sum --check sum"]}
there: {stage: two, tags: [host-b], script: ["sha256sum --check sum"]}
`)
	require.Eventually(t, func() bool {
		return strings.Contains(tailFile(f.agents["host-a"].log.Name(), 400), "507 STORE_FULL: no room for this blob")
	}, 2*time.Minute, 100*time.Millisecond, "the agent is not told why it can't upload")
	require.Eventually(t, func() bool {
		p, err := f.client.Pipeline(t.Context(), id)
		return err == nil && job(t, p, "here").Status == api.StatusSuccess && job(t, p, "there").Code == api.WaitUpload
	}, time.Minute, 50*time.Millisecond)

	// Then nothing at all has room.
	acknowledged := []string{}
	var refused error
	for try := 0; refused == nil; try++ {
		require.Less(t, try, 1000, "it takes pipelines without end")
		more(t, ballast, 1<<40)
		s, err := submit("full")
		if refused = err; err == nil {
			acknowledged = append(acknowledged, s.ID)
		}
	}
	t.Logf("refused: %v", refused)
	require.Contains(t, strings.ToLower(refused.Error()), "full")
	_, err := f.client.Pipelines(t.Context(), "full", 10)
	require.NoError(t, err, "what needs no room is answered")
	t.Logf("coordinator:\n%s", tailFile(f.coord.log.Name(), 12))

	// A crash in this state loses nothing that was acknowledged.
	f.coord.kill()
	f.coord.waitReady()
	for _, id := range acknowledged {
		got, err := f.client.Pipeline(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, api.StatusQueued, got.Jobs[0].Status)
	}

	require.NoError(t, os.Remove(ballast))
	f.requireSuccess(f.wait(id))
	require.Eventually(t, func() bool {
		_, err := submit("after")
		return err == nil
	}, time.Minute, 50*time.Millisecond, "there is room again")
	f.requireSuccess(f.run("before", `job: {tags: [host-a], script: ["grep kept f"]}`))
}

// more makes a file larger by n bytes, or by what there is room for.
func more(t *testing.T, name string, n int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	defer f.Close()
	for step := int64(1 << 20); n > 0 && step > 0; {
		w, err := f.Write(make([]byte, min(n, step)))
		if n -= int64(w); err != nil {
			step /= 2
		}
	}
	require.NoError(t, f.Sync())
}
