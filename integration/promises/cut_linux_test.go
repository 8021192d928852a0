package promises

import (
	"fmt"
	"io"
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

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// bootEnv names the boot that a worker believes to be in, diskEnv its disk.
const (
	bootEnv = "ROOST_PROMISES_BOOT"
	diskEnv = "ROOST_PROMISES_DISK"
)

// cutChild is a worker on a disk whose power is cut.
func cutChild(dir string) error {
	o := options(os.Getenv(driverEnv))
	o.BootID = os.Getenv(bootEnv)
	return work(&worker{dir: dir, disk: os.Getenv(diskEnv), cut: true}, o)
}

// TestPowerCut cuts the power of a disk while a process works on a store on it, at
// random writes and flushes: of what was not flushed a random part is there
// afterwards. Then it mounts what is left, as the next boot would, and opens the
// store: what was synced, packed, durable, fetched for good, created or restored is
// there and exact; what was only sealed or fetched is exact, doubtful or gone; and
// nothing is left over.
//
// One time in three the power fails again before anybody looks, perhaps while the
// file system or the store recovers.
func TestPowerCut(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Loop, testenv.Fuse, "mkfs.xfs")
	n := count(5, 50, 400)
	if v, err := strconv.Atoi(os.Getenv("ROOST_CUTS")); err == nil {
		n = v
	}
	_, seed := seeded(t)
	only := os.Getenv("ROOST_DRIVER")
	cases := []struct{ fs, driver string }{
		{testenv.Ext4, view.NameErofs},
		{testenv.Ext4, view.NameOverlay},
		{testenv.Ext4, view.NameCopy},
		{testenv.XFS, view.NameErofs},
		{testenv.XFS, view.NameReflink},
	}
	works := working(t)
	cases = slices.DeleteFunc(cases, func(c struct{ fs, driver string }) bool {
		return only != "" && only != c.driver || c.driver == view.NameErofs && !slices.Contains(works, c.driver)
	})
	n = (n + len(cases) - 1) / len(cases)
	for _, c := range cases {
		t.Run(c.fs+"/"+c.driver, func(t *testing.T) {
			began := time.Now()
			k := newCutting(t, c.fs, c.driver, seed)
			for k.cuts < n {
				if k.cuts%25 == 0 {
					k.fresh() // trees and blobs pile up
				}
				k.round()
			}
			k.look()
			require.Empty(t, processes(k.dir))
			record(t, began, "power cut", k.cuts, "of %d blocks that were not flushed %d were lost; %d of the cuts in recovery; %d layers looked at %d times, 0 of those that were promised lost, none shown wrong; %d others were doubtful or gone",
				k.blocks, k.blocks-k.kept, k.early, len(k.ever), k.looked, len(k.doubtful))
		})
	}
}

// cutting is what the test knows to be promised, and the disk.
type cutting struct {
	killing
	fs       string
	boots    int
	restored map[snapshot.ID]bool // back-<id> is whole
	doubtful map[snapshot.ID]bool // were sealed or fetched, and are not to be had
	going    map[snapshot.ID]bool // are being removed; true: promised if they stay

	cuts, blocks, kept int
	lately             string // what the last worker said
}

func newCutting(t *testing.T, fs, driver string, seed uint64) *cutting {
	dir := t.TempDir()
	c := &cutting{fs: fs, restored: map[snapshot.ID]bool{}, doubtful: map[snapshot.ID]bool{}, killing: killing{
		t: t, driver: driver, dir: dir, r: rand.New(rand.NewPCG(seed, uint64(len(fs)+len(driver)))), ever: map[snapshot.ID]bool{},
	}}
	for _, d := range []string{"mnt", "fs"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	return c
}

func (c *cutting) disk() string { return filepath.Join(c.dir, "fs") }

// fresh looks, then begins anew with an empty disk.
func (c *cutting) fresh() {
	t := c.t
	img := filepath.Join(c.dir, "img")
	if _, err := os.Stat(img); err == nil {
		c.look()
	}
	for _, d := range []string{"almanac", "far", "img"} {
		require.NoError(t, os.RemoveAll(filepath.Join(c.dir, d)))
	}
	for _, err := range []error{os.WriteFile(img, nil, 0o600), os.Truncate(img, 320<<20)} {
		require.NoError(t, err)
	}
	mkfs := map[string][]string{
		testenv.Ext4: {"-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-J", "size=8"},
		testenv.XFS:  {"-q"},
	}[c.fs]
	out, err := exec.Command("mkfs."+c.fs, append(mkfs, img)...).CombinedOutput()
	require.NoError(t, err, string(out))
	c.a, err = openAlmanac(filepath.Join(c.dir, "almanac"))
	require.NoError(t, err)
	c.acked, c.packed, c.maybe = map[snapshot.ID]bool{}, map[snapshot.ID]bool{}, map[snapshot.ID]bool{}
	c.created, c.going = map[snapshot.ID]uint64{}, map[snapshot.ID]bool{}
	clear(c.restored)
}

// round starts a worker, cuts the power under it, and mostly looks at what is left.
func (c *cutting) round() {
	t := c.t
	p := c.on()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=cut", childDir+"="+c.dir, driverEnv+"="+c.driver, diskEnv+"="+c.disk(),
		fmt.Sprintf("%s=boot-%d", bootEnv, c.boots), fmt.Sprintf("%s=%d", seedEnv, c.r.Uint64()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	// It stops before one of its first writes, when it may still recover, or later.
	p.tell("arm %d", 1+c.r.IntN([]int{8, 60, 600, 600}[c.r.IntN(4)]))
	require.NoError(t, cmd.Start())
	var said strings.Builder
	rest := make(chan error, 1)
	go func() {
		_, err := io.Copy(&said, out)
		rest <- err
	}()
	patience := time.NewTimer(2 * time.Second) // what it does next may need no disk
	select {
	case s := <-p.said:
		require.Equal(t, "stopped", s)
	case <-patience.C:
		p.tell("stop")
		require.Equal(t, "stopped", p.answer())
	case <-rest:
		cmd.Wait()
		t.Fatalf("%s on %s: a worker ended by itself\n%s\n%s", c.driver, c.fs, &stderr, tail(said.String()))
	}
	// What it still says was done before the disk stopped: no write and no flush has
	// ended since. Killed, it says nothing more, so it is before the disk goes on.
	time.Sleep(time.Duration(c.r.IntN(4)) * time.Millisecond)
	cmd.Process.Kill()
	p.tell("cut %d", c.r.Uint64())
	var lost, kept int
	for s := p.answer(); ; s = p.answer() {
		if _, err := fmt.Sscanf(s, "cut %d %d", &lost, &kept); err == nil {
			break
		}
	}
	<-rest
	cmd.Wait()
	p.end(false)
	c.cuts++
	c.blocks, c.kept = c.blocks+lost, c.kept+kept
	c.lately = said.String()
	c.heed(c.lately)
	if !strings.Contains(said.String(), "ready\n") {
		c.early++
	}
	if c.r.IntN(3) > 0 {
		c.look()
	}
}

// heed notes what a worker said: what has to be there after a power cut.
func (c *cutting) heed(said string) {
	for l := range strings.Lines(said) {
		if !strings.HasSuffix(l, "\n") {
			continue // cut off: not acknowledged
		}
		what, s, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		s, seed, _ := strings.Cut(s, " ")
		id := snapshot.ID(s)
		switch what {
		case "sealed", "fetched":
			c.ever[id], c.maybe[id] = true, true
		case "created":
			n, err := strconv.ParseUint(seed, 10, 64)
			require.NoError(c.t, err)
			c.created[id], c.acked[id], c.packed[id], c.ever[id] = n, true, true, true
		case "synced", "packed", "durable", "imported":
			to := c.acked
			if _, ok := c.going[id]; ok { // Run goes on beside a removal
				to = c.going
			}
			to[id] = true
			c.packed[id] = c.packed[id] || what != "synced"
		case "suspect":
			require.False(c.t, c.acked[id], "%s was promised and is in doubt after a power cut", id)
			c.doubtful[id] = true
		case "removing":
			c.going[id] = c.acked[id]
			delete(c.acked, id)
		case "kept":
			c.acked[id] = c.going[id]
			delete(c.going, id)
		case "importing", "removed":
			delete(c.acked, id)
			delete(c.packed, id)
			delete(c.going, id)
		case "restored":
			c.restored[id] = true
		case "unrestoring":
			delete(c.restored, id)
		}
	}
}
