package promises

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// domainKey keys the chunks of every store here, so that they can exchange layers.
var domainKey = []byte("a key of thirty-two bytes, secret")

// TestMain runs the processes that tests start of themselves.
func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		os.Exit(m.Run())
	case "kill":
		os.Exit(child(killChild))
	case "fault":
		os.Exit(child(faultChild))
	case "cut":
		os.Exit(child(cutChild))
	case "cutdisk":
		os.Exit(child(cutDiskChild))
	}
	fmt.Fprintln(os.Stderr, "no such child")
	os.Exit(2)
}

// childEnv says which child a process is, childDir where it works.
const (
	childEnv = "ROOST_PROMISES_CHILD"
	childDir = "ROOST_PROMISES_DIR"
)

func child(run func(dir string) error) int {
	if err := run(os.Getenv(childDir)); err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

// count picks how many there are to be.
func count(small, ci, full int) int {
	switch os.Getenv("ROOST_PROMISES") {
	case "full":
		return full
	case "ci":
		return ci
	}
	return small
}

// seeded returns a source of randomness, and says how to have the same again.
func seeded(t testing.TB) (*rand.Rand, uint64) {
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("ROOST_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("ROOST_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 7)), seed
}

// working lists the drivers that work here. The first two have to.
func working(t *testing.T) (list []string) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	for _, p := range view.Probe(t.TempDir()) {
		must := p.Name == view.NameOverlay || p.Name == view.NameCopy
		require.True(t, p.OK || !must, "%s: %s", p.Name, p.Why)
		if only := os.Getenv("ROOST_DRIVER"); p.OK && (only == "" || only == p.Name) {
			list = append(list, p.Name)
		}
	}
	return list
}

// drivers runs fn with each driver that works here.
func drivers(t *testing.T, fn func(t *testing.T, driver string)) {
	t.Helper()
	for _, d := range working(t) {
		t.Run(d, func(t *testing.T) { fn(t, d) })
	}
}

// options are the same in every process that opens a store here.
func options(driver string) store.Options {
	return store.Options{
		BootID: "boot-1", Owners: true, ReserveBytes: 1 << 16, MaxChain: 3, Workers: 2,
		Driver: func(root string) (view.Driver, error) {
			return view.Open(driver, root, view.Options{Owners: true, MaxLowers: 4})
		},
	}
}

// tempDir is a directory of the test on a disk of its own: syncs wait for nobody
// else, and take no time, since a test that kills processes cuts no power.
func tempDir(t testing.TB) string {
	disk := newDisk(t, 1024, "barrier=0")
	dir := filepath.Join(disk, "promise")
	require.NoError(t, os.Mkdir(dir, 0o755))
	return dir
}

// newDisk mounts a fresh ext4 of some megabytes, which take room as they are used.
func newDisk(t testing.TB, megabytes int, opts string) string {
	testenv.Require(t, testenv.Loop)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	at, img := filepath.Join(dir, "disk"), filepath.Join(dir, "img")
	require.NoError(t, os.Mkdir(at, 0o755))
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, int64(megabytes)<<20))
	for _, cmd := range [][]string{{"mkfs.ext4", "-q", "-F", "-m", "0", img}, {"mount", "-o", "loop," + opts, img, at}} {
		out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	t.Cleanup(func() {
		runtime.GC() // a driver keeps files open that only its end closes
		runtime.GC()
		for _, m := range mountsBelow(at + "/") { // a test that failed in the middle
			if f := strings.Fields(m); len(f) > 4 && t.Failed() {
				unix.Unmount(f[4], unix.MNT_DETACH)
			}
		}
		if t.Failed() {
			unix.Unmount(at, unix.MNT_DETACH)
			return
		}
		out, err := exec.Command("umount", at).CombinedOutput()
		require.NoError(t, err, string(out))
	})
	return at
}

// mountsBelow lists the mounts that have to do with dir, the last one first.
func mountsBelow(dir string) (found []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, dir) {
			found = append([]string{l}, found...)
		}
	}
	return found
}

// leftovers lists the mounts and loop devices that have to do with dir.
func leftovers(t testing.TB, dir string) (found []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for l := range strings.Lines(string(b)) {
		if strings.Contains(l, dir) {
			found = append(found, "mount "+strings.TrimSpace(l))
		}
	}
	for _, l := range testenv.Loops(t, dir) {
		found = append(found, "loop "+l)
	}
	return found
}

// processes lists those that were started for dir.
func processes(dir string) (found []string) {
	envs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, e := range envs {
		if b, err := os.ReadFile(e); err == nil && strings.Contains(string(b), childDir+"="+dir) {
			found = append(found, e)
		}
	}
	return found
}

// result is a line of the table in docs/promises.md.
type result struct {
	Promise string  `json:"promise"`
	Test    string  `json:"test"`
	Count   int     `json:"count"`
	Text    string  `json:"text"` // what came out
	Seconds float64 `json:"seconds"`
}

// record keeps what a test found, if it passed, where make promises wants it.
func record(t *testing.T, began time.Time, promise string, n int, format string, args ...any) {
	t.Helper()
	r := result{
		Promise: promise, Test: t.Name(), Count: n, Text: fmt.Sprintf(format, args...),
		Seconds: time.Since(began).Seconds(),
	}
	t.Logf("%s: %d, %s, %.1f s", promise, n, r.Text, r.Seconds)
	out := os.Getenv("ROOST_PROMISES_OUT")
	if out == "" || t.Failed() {
		return
	}
	b, err := json.Marshal(r)
	require.NoError(t, err)
	f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(append(b, '\n'))
	require.NoError(t, err)
}
