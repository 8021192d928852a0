package integration

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
    - mkdir -p d/sub && for i in $(seq 40); do echo "file $i" > d/f$i; done
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
    - test "$(find d -type f | wc -l)" = 43
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

// TestKillAtNamedSteps kills an agent or the coordinator, as kill -9 does, at the
// named steps, in the middle of pipelines. Each time the process is started again
// and the pipeline has to end well, with the right files. At the end nothing is
// left over. It prints how often each step was hit; a step never hit fails it
// when there were enough kills to reach all of them.
func TestKillAtNamedSteps(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Bash)
	bin, err := failBinary()
	require.NoError(t, err)
	points := failPoints(t)
	require.NotEmpty(t, points)
	f := newFleet(t, bin, 2)
	want := kills(t)
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d, %d steps, %d kills wanted", seed, len(points), want)

	queue := sortedKeys(points)
	rng.Shuffle(len(queue), func(i, j int) { queue[i], queue[j] = queue[j], queue[i] })
	hits := map[string]int{}
	total, tries := 0, map[string]int{}
	for len(queue) > 0 && (total < want || want >= len(points)) {
		step := queue[0]
		queue = queue[1:]
		procs := processOf(strings.TrimPrefix(points[step], "../"))
		victim := procs[tries[step]%len(procs)]
		if f.killAt(step, victim, 1+rng.IntN(2)*(1-min(tries[step], 1)), total) {
			hits[step]++
			total++
		} else if tries[step]++; tries[step] < 2*len(procs) {
			queue = append(queue, step)
		}
		if len(queue) == 0 && total < want { // every step was tried: go on at random
			queue = append(queue, sortedKeys(hits)[rng.IntN(len(hits))])
		}
	}
	f.stop()
	for _, step := range sortedKeys(points) {
		t.Logf("%4d  %s", hits[step], step)
	}
	if want >= len(points) {
		for _, step := range sortedKeys(points) {
			require.NotZero(t, hits[step], "step %s was never reached", step)
		}
	}
	require.GreaterOrEqual(t, total, want)
	requireNothingLeft(t, f.dir)
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
