package promises

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// TestKill kills a process that works on a store, at random moments and, where the
// tests are built with failpoints, at the named steps of the store and below. Then
// it opens the store as the next process would and looks whether everything that
// was acknowledged is there, exactly, and whether nothing is left over.
//
// One time in three the next process is killed too, perhaps in the middle of its
// recovery, before anybody looks.
func TestKill(t *testing.T) {
	n := count(12, 500, 5000)
	if v, err := strconv.Atoi(os.Getenv("ROOST_STORE_KILLS")); err == nil {
		n = v
	}
	_, seed := seeded(t)
	n = (n + len(working(t)) - 1) / len(working(t))
	drivers(t, func(t *testing.T, driver string) {
		t.Parallel()
		began := time.Now()
		k := newKilling(t, driver, seed)
		for k.kills < n {
			k.round()
			if k.kills%80 == 0 {
				k.wipe() // trees and blobs pile up
			}
		}
		k.wipe()
		require.Empty(t, processes(k.dir))
		k.countDeaths()
		record(t, began, "kill -9", k.kills, "%d of them at %d named steps, %d in recovery; %d acknowledged layers looked at %d times, %d lost, 0 mounts, loops or processes left",
			k.named, len(k.hits), k.early, len(k.ever), k.looked, 0)
	})
}

// killing is what the test knows to be promised.
type killing struct {
	t      *testing.T
	driver string
	dir    string
	r      *rand.Rand
	a      *almanac
	points []string

	acked   map[snapshot.ID]bool // must be there
	packed  map[snapshot.ID]bool // and must be packed
	created map[snapshot.ID]uint64
	maybe   map[snapshot.ID]bool // being removed or imported
	ever    map[snapshot.ID]bool

	kills, named, early, looked int
	hits                        map[string]int
}

func newKilling(t *testing.T, driver string, seed uint64) *killing {
	dir := tempDir(t)
	a, err := openAlmanac(filepath.Join(dir, "almanac"))
	require.NoError(t, err)
	return &killing{
		t: t, driver: driver, dir: dir, r: rand.New(rand.NewPCG(seed, uint64(len(driver)))), a: a, points: storePoints(t),
		acked: map[snapshot.ID]bool{}, packed: map[snapshot.ID]bool{}, maybe: map[snapshot.ID]bool{},
		created: map[snapshot.ID]uint64{}, ever: map[snapshot.ID]bool{}, hits: map[string]int{},
	}
}

// storePoints are the named steps that a store can reach.
func storePoints(t *testing.T) []string {
	list := slices.Sorted(maps.Keys(testenv.FailPoints(t, "../../snapshot", "../../internal/durable")))
	require.NotEmpty(t, list)
	return list
}

// round starts a worker, kills it, and mostly looks at what it left.
func (k *killing) round() {
	point := ""
	env := append(os.Environ(), childEnv+"=kill", childDir+"="+k.dir, driverEnv+"="+k.driver,
		fmt.Sprintf("%s=%d", seedEnv, k.r.Uint64()))
	if k.r.IntN(2) == 0 {
		point = k.points[k.r.IntN(len(k.points))]
		env = append(env, fmt.Sprintf("%s=%s:%d", fail.Env, point, 1+k.r.IntN(3)), fail.EnvLog+"="+k.deaths())
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(k.t, err)
	require.NoError(k.t, cmd.Start())

	// From the moment that it opens the store until a while after it is ready.
	lines := bufio.NewReader(out)
	first, _ := lines.ReadString('\n')
	var said strings.Builder
	rest := make(chan error, 1)
	go func() {
		_, err := io.Copy(&said, lines)
		rest <- err
	}()
	wait := time.Duration(k.r.Int64N(int64(70 * time.Millisecond)))
	switch {
	case point != "":
		wait = 90 * time.Millisecond
	case k.r.IntN(4) == 0:
		wait /= 10 // in its recovery, perhaps
	}
	select {
	case <-time.After(wait):
		cmd.Process.Kill()
		<-rest
	case <-rest:
	}
	err = cmd.Wait()
	k.heed(first + said.String())
	var exit *exec.ExitError
	if err == nil || !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		k.t.Fatalf("%s: a worker ended by itself: %v\n%s\n%s", k.driver, err, stderr.String(), tail(said.String()))
	}
	k.kills++
	if !strings.Contains(said.String(), "ready\n") {
		k.early++
	}
	if k.r.IntN(3) > 0 {
		k.look()
	}
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// countDeaths reads how often which named step was the last.
func (k *killing) countDeaths() {
	b, err := os.ReadFile(k.deaths())
	if os.IsNotExist(err) {
		return // built without failpoints
	}
	require.NoError(k.t, err)
	for l := range strings.Lines(string(b)) {
		k.hits[strings.TrimSpace(l)]++
		k.named++
	}
}

func (k *killing) deaths() string { return filepath.Join(k.dir, "deaths") }

// heed notes what a worker said.
func (k *killing) heed(said string) {
	for l := range strings.Lines(said) {
		what, s, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		s, seed, _ := strings.Cut(s, " ")
		id := snapshot.ID(s)
		if !strings.HasSuffix(l, "\n") {
			continue // cut off: not acknowledged
		}
		switch what {
		case "sealed":
			k.acked[id], k.ever[id] = true, true
		case "created":
			n, err := strconv.ParseUint(seed, 10, 64)
			require.NoError(k.t, err)
			k.created[id], k.acked[id], k.ever[id] = n, true, true
		case "packed", "durable":
			k.packed[id] = true
		case "imported":
			k.acked[id], k.packed[id] = true, true
			delete(k.maybe, id)
		case "importing", "removing":
			delete(k.acked, id)
			k.maybe[id] = true
		case "kept":
			delete(k.maybe, id)
			k.acked[id] = true
		case "removed":
			delete(k.acked, id)
			delete(k.packed, id)
			delete(k.maybe, id)
		}
	}
}
