package promises

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
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
	set := map[string]bool{}
	for _, dir := range []string{"snapshot", "internal/durable"} {
		require.NoError(t, filepath.WalkDir(filepath.Join("../..", dir), func(p string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			b, err := os.ReadFile(p)
			for _, m := range regexp.MustCompile(`fail\.Point\("([^"]+)"\)`).FindAllSubmatch(b, -1) {
				set[string(m[1])] = true
			}
			return err
		}))
	}
	var list []string
	for p := range set {
		list = append(list, p)
	}
	slices.Sort(list)
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

// look opens the store and checks everything.
func (k *killing) look() {
	k.t.Helper()
	t, ctx := k.t, context.Background()
	require.NoError(t, k.a.reload())
	s, err := store.Open(ctx, filepath.Join(k.dir, "store"), options(k.driver))
	require.NoError(t, err, "the store does not open")
	closed := false
	defer func() {
		if !closed {
			s.Close() // the first failure is the one to tell
		}
	}()
	require.Empty(t, leftovers(t, k.dir))
	endViews(t, s)
	held := map[snapshot.ID]bool{}
	for _, in := range s.List() {
		held[in.ID] = true
		require.True(t, in.State.Usable(), "%s: %s %s", in.ID, in.State, in.Err)
		if k.packed[in.ID] {
			require.NotEqual(t, store.Sealed, in.State, "%s was packed", in.ID)
		}
		if !in.Index.IsZero() {
			require.NoError(t, s.Verify(ctx, in.ID))
		}
		if k.a.jobs[in.ID] == nil {
			k.restores(s, in.ID)
		} else {
			k.shows(s, in.ID)
		}
		k.looked++
	}
	for id := range k.acked {
		require.True(t, held[id], "acknowledged layer %s is lost", id)
	}
	// What was under way is settled now, this way or that.
	k.acked, k.maybe = held, map[snapshot.ID]bool{}
	for id := range k.packed {
		if !held[id] {
			delete(k.packed, id)
		}
	}
	closed = true
	require.NoError(t, s.Close())
	k.clean(filepath.Join(k.dir, "store"), held)
}

// endViews ends what an earlier process had open, as an agent does.
func endViews(t *testing.T, s *store.Store) {
	t.Helper()
	for _, v := range s.Views() {
		if v.Sealed {
			require.NoError(t, s.Reported(context.Background(), v.ID))
		} else {
			require.NoError(t, s.Discard(context.Background(), v.ID))
		}
	}
}

// shows mounts a layer and compares it with what its job did.
func (k *killing) shows(s *store.Store, id snapshot.ID) {
	at := filepath.Join(k.dir, "seen")
	require.NoError(k.t, os.MkdirAll(at, 0o755))
	c, err := s.Mount(context.Background(), id, at)
	require.NoError(k.t, err)
	diff := k.a.compare(id, at)
	require.NoError(k.t, c.Close())
	require.NoError(k.t, diff)
}

// restores checks what a killed restore left of a snapshot of a directory, and
// restores it. Of one whose creation was not acknowledged it is not known what it
// has to be.
func (k *killing) restores(s *store.Store, id snapshot.ID) {
	t := k.t
	seed, known := k.created[id]
	back, plain := filepath.Join(k.dir, "back-"+string(id)), filepath.Join(k.dir, "plain")
	same := func() {
		diff, err := treecheck.Compare(plain, back)
		require.NoError(t, err)
		require.Empty(t, diff)
	}
	if known {
		require.NoError(t, os.Mkdir(plain, 0o755))
		require.NoError(t, garden(plain, seed, createSteps, true))
		defer os.RemoveAll(plain)
		if _, err := os.Lstat(back); err == nil {
			same() // the restore was killed behind its end
		}
	}
	require.NoError(t, os.RemoveAll(back))
	_, err := s.Restore(context.Background(), store.RestoreSpec{Snapshot: id, Dir: back})
	require.NoError(t, err)
	if known {
		same()
	}
	require.NoError(t, os.RemoveAll(back))
	left, err := filepath.Glob(back + "*")
	require.NoError(t, err)
	require.Empty(t, left, "left of a restore")
}

// clean looks for files that belong to nothing.
func (k *killing) clean(root string, held map[snapshot.ID]bool) {
	views, err := os.ReadDir(filepath.Join(root, "views"))
	require.NoError(k.t, err)
	for _, v := range views {
		require.True(k.t, held[snapshot.ID(v.Name())], "views/%s belongs to no layer", v.Name())
	}
	for _, d := range []string{"tmp", "trash"} {
		left, err := os.ReadDir(filepath.Join(root, d))
		require.NoError(k.t, err)
		require.Empty(k.t, left, d)
	}
	require.Empty(k.t, leftovers(k.t, filepath.Dir(root)+"/"))
}

// wipe looks, then removes everything: of a store that has been through a lot that
// must work as of a new one.
func (k *killing) wipe() {
	k.look()
	t, ctx := k.t, context.Background()
	s, err := store.Open(ctx, filepath.Join(k.dir, "store"), options(k.driver))
	require.NoError(t, err)
	for list := s.List(); len(list) > 0; list = s.List() {
		for _, in := range slices.Backward(list) {
			if err := s.Drop(ctx, in.ID); !errors.Is(err, snapshot.ErrBusy) {
				require.NoError(t, err)
			}
		}
		require.Less(t, len(s.List()), len(list), "nothing can be removed")
	}
	require.NoError(t, s.Close())
	k.clean(filepath.Join(k.dir, "store"), map[snapshot.ID]bool{})
	require.Zero(t, intents(t, filepath.Join(k.dir, "store")), "removals that nobody finishes")
	for _, d := range []string{"indexes", "manifests"} { // packs go between two packings, or at the next start
		left, err := os.ReadDir(filepath.Join(k.dir, "store", d))
		require.NoError(t, err)
		require.Empty(t, left, d)
	}
	require.NoError(t, os.RemoveAll(k.a.dir))
	require.NoError(t, os.RemoveAll(filepath.Join(k.dir, "far")))
	for _, pattern := range []string{"src-*", "back-*", "gone-*"} { // of snapshots that were removed since
		found, err := filepath.Glob(filepath.Join(k.dir, pattern))
		require.NoError(t, err)
		for _, d := range found {
			require.NoError(t, os.RemoveAll(d))
		}
	}
	clear(k.created)
	k.a.jobs = map[snapshot.ID]*job{}
	k.acked, k.packed, k.maybe = map[snapshot.ID]bool{}, map[snapshot.ID]bool{}, map[snapshot.ID]bool{}
}

// intents counts the removals that were begun and not ended.
func intents(t testing.TB, dir string) (n int) {
	db, err := sql.Open("sqlite", filepath.Join(dir, "store.db"))
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.QueryRow("SELECT count(*) FROM intents").Scan(&n))
	return n
}
