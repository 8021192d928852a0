package integration

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
)

// killPipeline has a bit of everything: a chain, a fan-out, a fan-in, and a job
// that must run on the other host and check what all of them left.
const killPipeline = `
stages: [one, two, three, four]
default: {timeout: 2 minutes}
first:
  stage: one
  tags: [host-a]
  script:
    - rm -rf d left.txt right.txt && mkdir -p d/sub && for i in $(seq 80); do echo "file $i" > d/f$i; done
    - head -c 300000 /dev/urandom > d/big && sha256sum d/big > d/big.sum
    - ln d/f1 d/sub/hard && ln -s f2 d/soft && echo gone > d/gone
left:
  stage: two
  needs: [first]
  script: ["echo left > left.txt", "rm d/gone", "mv d/sub d/moved"]
right:
  stage: two
  needs: [first]
  script: ["echo right > right.txt", "echo more >> d/f40"]
dropped: {stage: two, needs: [first], allow_failure: true, script: ["rm -r d", "false"]}
idle: {stage: two, needs: [first], workspace: {commit: if-changed}, script: ["true"]}
empty: {stage: two, workspace: false, script: ["test -z \"$(ls)\"", "echo x > x"]}
join:
  stage: three
  needs: [left, right]
  script:
    - test "$(cat left.txt right.txt | tr '\n' ' ')" = "left right "
    - test ! -e d/gone && test -e d/moved/hard && test ! -e d/sub
away:
  stage: four
  needs: [join]
  tags: [host-b]
  script:
    - sha256sum --check d/big.sum
    - test "$(tail -n 1 d/f40)" = more && test "$(readlink d/soft)" = f2
    - test ! -e d/gone && test "$(cat d/moved/hard)" = "file 1"
    - test "$(find d -type f | wc -l)" = 83
`

// kills is how many deaths the test wants at the least; CI asks for 50.
func kills(t testing.TB) int {
	n, err := strconv.Atoi(os.Getenv("ROOST_KILLS"))
	if err != nil || n <= 0 {
		n = 6
	}
	if testing.Short() {
		n = min(n, 2)
	}
	return n
}

// processOf says which processes can reach a step.
func processOf(dir string) []string {
	switch {
	case dir == "internal/durable":
		return []string{"host-a", "coordinator", "host-b"}
	case strings.HasPrefix(dir, "coordinator"), dir == "transfer/blob":
		return []string{"coordinator"}
	default:
		return []string{"host-a", "host-b"}
	}
}

// elsewhere are steps that no pipeline of this version reaches; the test named
// beside each kills there instead.
var elsewhere = map[string]string{
	"gitlab.received":            "no GitLab is in a pipeline: TestGitLabCrash of coordinator",
	"coordinator.take":           "no GitLab is in a pipeline: TestGitLabCrash of coordinator",
	"coordinator.take.committed": "no GitLab is in a pipeline: TestGitLabCrash of coordinator",
	"store.scrub.remade":         "no damage is in a pipeline: TestVerify",
	"store.scrub.quarantined":    "no damage is in a pipeline: TestVerify",
	"store.scrub.mended":         "no damage is in a pipeline: TestVerify",
	"store.scrub.revived":        "no damage is in a pipeline: TestVerify",
	"store.redo.replayed":        "only a power cut takes anything from store.db: TestRedoAfterPowerCut",
	"store.evict":                "only a host without room evicts: TestSmallStore",
	"backing.reserved":           "internal/backing: TestCrash",
	"backing.formatted":          "internal/backing: TestCrash",
	"backing.mounted":            "internal/backing: TestCrash",
	"backing.extended":           "internal/backing: TestCrash",
	"backing.grown":              "internal/backing: TestCrash",
	"view.graph.created":         "snapshot/view: TestCrash of the containers-storage driver",
	"view.graph.removed":         "snapshot/view: TestCrash of the containers-storage driver",
	"view.start.written":         "snapshot/view: TestCrash of the erofs driver",
	"store.leadon.imaged":        "a pipeline rarely has an image older than the bundle: snapshot/store, TestDeathInGathering",
	"store.create.encoded":       "cmd/roost: TestSnapshotSurvivesKills",
	"store.create.row":           "cmd/roost: TestSnapshotSurvivesKills",
	"store.create.written":       "cmd/roost: TestSnapshotSurvivesKills",
	"store.detach.written":       "cmd/roost: TestSnapshotSurvivesKills",
	"store.detach.row":           "cmd/roost: TestSnapshotSurvivesKills",
	"store.materialise.row":      "cmd/roost: TestSnapshotSurvivesKills",
	"store.materialise.unpacked": "cmd/roost: TestSnapshotSurvivesKills",
	"store.restore.filled":       "cmd/roost: TestSnapshotSurvivesKills",
	"store.restore.made":         "cmd/roost: TestSnapshotSurvivesKills",
	"store.restore.synced":       "cmd/roost: TestSnapshotSurvivesKills",
	"blob.ref.committed":         "cmd/roost: TestSnapshotSurvivesKills",
	"store.pull.packs":           "cmd/roost: TestSnapshotSurvivesKills",
	"store.pull.written":         "cmd/roost: TestSnapshotSurvivesKills",
	"store.pull.row":             "cmd/roost: TestSnapshotSurvivesKills",
	"exec.recorded":              "the plugin is another process than the agent: integration/plugins, TestExecKilledAtPoints",
	"exec.launched":              "the plugin is another process than the agent: integration/plugins, TestExecKilledAtPoints",
	"exec.ended":                 "the plugin is another process than the agent: integration/plugins, TestExecKilledAtPoints",
	"store.prepare.outlives":     "only views of a plugin's jobs outlive a process: agent, TestGuestKilled",
	"agent.guest.recovered":      "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.claimed":        "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.accepted":       "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.attached":       "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.sealed":         "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.discarding":     "no plugin is in a pipeline of a file: agent, TestGuestKilled",
	"agent.guest.dropped":        "no plugin is in a pipeline of a file: agent, TestGuestKilled",
}

// TestKillAtNamedSteps kills an agent or the coordinator, as kill -9 does, at the
// named steps, in the middle of pipelines. Each time the process is started again
// and the pipeline has to end well, with the right files. At the end nothing is
// left over. It prints how often each step was hit; a step never hit fails it
// when there were enough kills to reach all of them.
func TestKillAtNamedSteps(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	bin, err := failBinary()
	require.NoError(t, err)
	points := testenv.FailPoints(t, "..")
	for step := range elsewhere {
		require.Contains(t, points, step, "elsewhere names a step that is no more")
		delete(points, step)
	}
	require.NotEmpty(t, points)
	seed := uint64(time.Now().UnixNano())
	h := &killing{t: t, points: points, want: kills(t), rng: rand.New(rand.NewPCG(seed, 1)), hits: map[string]int{}}
	t.Logf("seed %d, %d steps, %d kills wanted", seed, len(points), h.want)

	// What the best driver does not do is reached by agents that use others. Low
	// --max-lowers makes views flatten every few pipelines.
	h.over(newFleet(t, bin, 2), h.want)
	if h.all() {
		h.over(newFleet(t, bin, 2, "--driver", "overlay", "--max-lowers", "7"), 0)
		h.over(newFleet(t, bin, 2, "--driver", "copy"), 0)
	}
	for _, step := range slices.Sorted(maps.Keys(points)) {
		t.Logf("%4d  %s", h.hits[step], step)
	}
	if h.all() {
		for _, step := range slices.Sorted(maps.Keys(points)) {
			require.NotZero(t, h.hits[step], "step %s was never reached", step)
		}
	}
	require.GreaterOrEqual(t, h.total, h.want)
}

// killing is the state of the test above.
type killing struct {
	t      *testing.T
	points map[string]string
	want   int
	rng    *rand.Rand
	hits   map[string]int
	total  int
}

// all reports whether there are enough kills for every step.
func (h *killing) all() bool { return h.want >= len(h.points) || h.want >= 50 }

// over tries every step that was not hit yet on a fleet, in random order, and goes
// on at random until there were at least n kills.
func (h *killing) over(f *fleet, n int) {
	var queue []string
	for _, s := range slices.Sorted(maps.Keys(h.points)) {
		if h.hits[s] == 0 {
			queue = append(queue, s)
		}
	}
	h.rng.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
	tries := map[string]int{}
	for len(queue) > 0 && (h.all() || h.total < n) {
		step := queue[0]
		queue = queue[1:]
		procs := processOf(strings.TrimPrefix(h.points[step], "../"))
		count := 1
		if tries[step] == 0 {
			count += h.rng.IntN(2)
		}
		if f.killAt(step, procs[tries[step]%len(procs)], count, h.total) {
			h.hits[step]++
			h.total++
		} else if tries[step]++; tries[step] <= len(procs) {
			queue = append(queue, step)
		}
		if len(queue) == 0 && h.total < n {
			queue = append(queue, slices.Sorted(maps.Keys(h.hits))[h.rng.IntN(len(h.hits))])
		}
	}
	f.stop()
	requireNothingLeft(h.t, f.dir)
}

// killAt restarts victim so that it dies at the n-th time it reaches step, runs a
// pipeline, and reports whether it did die there.
func (f *fleet) killAt(step, victim string, n, run int) bool {
	f.t.Helper()
	env := []string{fmt.Sprintf("%s=%s:%d", fail.Env, step, n)}
	var p *proc
	if victim == "coordinator" {
		f.coord.stop()
		f.startCoordinator(env)
		p = f.coord
	} else {
		f.agents[victim].stop()
		f.startAgent(victim, env)
		p = f.agents[victim]
	}
	began := time.Now()
	f.requireSuccess(f.run(fmt.Sprintf("kill/%d", run%7), killPipeline))
	// Packing and uploading go on behind the pipeline's end.
	for wait := time.Now().Add(1500 * time.Millisecond); p.killed() == 0 && time.Now().Before(wait); {
		time.Sleep(20 * time.Millisecond)
	}
	f.t.Logf("%-12s %-28s x%d: killed %v, pipeline ended well after %v", victim, step, n, p.killed() > 0,
		time.Since(began).Round(10*time.Millisecond))
	return p.killed() > 0
}

// requireNothingLeft looks for mounts, processes and temporary files.
func requireNothingLeft(t testing.TB, dir string) {
	t.Helper()
	require.Empty(t, mountsBelow(t, dir), "mounts left")
	require.Empty(t, processesOf(t, dir), "processes left")
	for _, tmp := range []string{"tmp", "trash"} {
		for _, pattern := range []string{"*/" + tmp + "/*", "*/*/" + tmp + "/*"} {
			left, err := filepath.Glob(filepath.Join(dir, pattern))
			require.NoError(t, err)
			require.Empty(t, left, "temporary files left")
		}
	}
}
