package store

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot/view"
)

// BenchmarkManySmallFiles is the CPU time (cpu-ms) of a look at each of 20,000 small
// files, one kind of look after the other: in a plain directory, and in a view of a
// layer that a job left, its files one by one and gathered.
func BenchmarkManySmallFiles(b *testing.B) {
	testenv.Require(b, testenv.Linux, testenv.Root, testenv.Overlay)
	h := newBench(b, view.NameErofs)
	h.gathering.least = 1 << 30
	plain := filepath.Join(b.TempDir(), "plain")
	makeSmallFiles(b, plain)
	one := h.job(func(dir string) {
		out, err := exec.Command("cp", "-a", plain+"/.", dir).CombinedOutput()
		require.NoError(b, err, string(out))
	})
	h.packed(one.ID)
	stop := h.run()
	require.Eventually(b, func() bool { p := h.placeOf(one.ID); return p.Image != "" && len(p.Lowers) == 0 }, waitMost, tick)
	stop()
	h.stop = nil
	byName, err := h.Prepare(b.Context(), h.spec(one.ID))
	require.NoError(b, err)
	began := cpu(b)
	require.NoError(b, h.gather(b.Context(), h.driver2(), h.layers[one.ID]))
	b.Logf("gathered with %v of CPU", cpu(b)-began)
	gathered, err := h.Prepare(b.Context(), h.spec(one.ID))
	require.NoError(b, err)
	dirs := []struct{ name, at string }{{"plain", plain}, {"byname", byName.Target}, {"gathered", gathered.Target}}
	looks := []struct {
		name string
		look func(dir string) error
	}{
		{"walk", func(dir string) error { return lookAt(dir, false) }},
		{"read", func(dir string) error { return lookAt(dir, true) }},
		{"gitstatus", func(dir string) error { return exec.Command("git", "-C", dir, "status", "--porcelain").Run() }},
		{"gitdiff", func(dir string) error { // reads all: the stamps are of no use
			return exec.Command("sh", "-c", `cd "$1" && cp .git/index .git/i && GIT_INDEX_FILE=.git/i git read-tree HEAD && GIT_INDEX_FILE=.git/i git diff --quiet`, "sh", dir).Run()
		}},
	}
	table := ""
	for _, l := range looks {
		took := make([][]time.Duration, len(dirs))
		for range 9 { // in turn: the machine is shared
			for i, d := range dirs {
				at := cpu(b)
				require.NoError(b, l.look(d.at))
				took[i] = append(took[i], cpu(b)-at)
			}
		}
		for i, d := range dirs {
			slices.Sort(took[i])
			slices.Sort(took[0])
			m, p := took[i][4], took[0][4]
			table += fmt.Sprintf("%-10s %-9s %8.1f ms  %+.0f %%\n", l.name, d.name, m.Seconds()*1000, 100*(m.Seconds()/p.Seconds()-1))
		}
	}
	b.Log("\n" + table)
}

func makeSmallFiles(b *testing.B, dir string) {
	b.Helper()
	for i := range 20_000 {
		write(b, fmt.Sprintf("%s/a%d/b%d/file%d.go", dir, i/2000, i/20%100, i), strings.Repeat(fmt.Sprintln("line", i), 1+i%300))
	}
	out, err := exec.Command("sh", "-c", `cd "$1" && git init -q && git config gc.auto 0 && git config maintenance.auto false && git add . && git -c user.name=x -c user.email=x@x commit -q -m x`, "sh", dir).CombinedOutput()
	require.NoError(b, err, string(out))
}

// lookAt walks a tree, and reads its files if wanted, but for what git keeps.
func lookAt(dir string, read bool) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case d.IsDir():
			return nil
		case read:
			_, err = os.ReadFile(p)
		default:
			_, err = d.Info()
		}
		return err
	})
}

// cpu is what this process and its children have used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var total time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		require.NoError(b, unix.Getrusage(who, &u))
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}
