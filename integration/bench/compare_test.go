//go:build bench && linux

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/internal/testenv"
)

// TestCompare is `make bench`. A way that is not ours and fails is said so in the
// tables; where ours fails the test does too.
func TestCompare(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay, testenv.Loop, testenv.Git, testenv.Go)
	b := &bench{t: t, set: readSettings(t), start: time.Now()}
	list := usable(t, b.set)
	b.about = aboutHere(list)
	b.roost = buildRoost(t, b.set)
	b.about.Driver = b.driverName()
	b.resume()
	for _, g := range []struct {
		name string
		do   func()
	}{{"session", func() { b.sessions(list) }}, {"native", b.natives}, {"hand", b.handOvers}, {"gitlab", b.gitlabs}} {
		if b.set.wants(g.name) && g.name != "hand" && g.name != "gitlab" { // which have trees of their own, or none
			b.makeTrees()
		}
		if b.set.wants(g.name) {
			start := time.Now()
			g.do()
			b.report()
			logf("%s: %.0f s", g.name, time.Since(start).Seconds())
		}
	}
	if b.set.resume != "" { // its tables want the trees, too
		b.makeTrees()
	}
	b.report()
	b.publish()
	_, err := os.Stdout.Write(b.markdown())
	require.NoError(t, err)
	for _, s := range b.rec.all {
		if s.Err != "" && (s.Way == roostWay.name || s.Group != "session") {
			t.Errorf("%s: %s", s.key, s.Err)
		}
	}
}

func (b *bench) makeTrees() {
	if len(b.trees) > 0 {
		return
	}
	for _, name := range b.set.trees {
		tr := makeTree(b.t, b.set, name)
		b.trees = append(b.trees, tr)
		b.about.Trees = append(b.about.Trees, fmt.Sprintf("%s: %s; %d files, %.0f MB", name, tr.What, tr.files, mb(tr.bytes)))
	}
}

func aboutHere(list []way) about {
	var u unix.Utsname
	kernel := "?"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	a := about{
		Commit: output("git rev-parse --short HEAD"), Dirty: output("git status --porcelain -uno -- :/ ':(exclude,top)integration/bench'") != "",
		Start: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Go: runtime.Version(), Kernel: kernel, Cores: runtime.NumCPU(),
		CPU:    output(`sed -n 's/^model name[^:]*: //p' /proc/cpuinfo`),
		Memory: output(`awk '/MemTotal/ {printf "%.0f GiB", $2/1048576}' /proc/meminfo`),
	}
	if prio, err := unix.Getpriority(unix.PRIO_PROCESS, 0); err == nil {
		a.Nice = 20 - prio // as the system call returns it
	}
	seen := map[string]bool{}
	for _, w := range list {
		if w.name == roostWay.name || seen[w.prog] {
			continue
		}
		seen[w.prog] = true
		a.Tools = append(a.Tools, strings.Trim(output(w.prog), "* "))
	}
	return a
}

// output is the first line that says something.
func output(script string) string {
	out, err := exec.Command("bash", "-c", script+" 2>&1 | grep -v '^Copyright' | grep -v '^$' | head -1").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// TestLooks keeps the comparison honest: it must see each kind of change.
func TestLooks(t *testing.T) {
	for name, change := range map[string]string{
		"content": `printf abd > f; touch -d @1 f`, "mode": `chmod 600 f`, "time": `touch -d @1.5 f`,
		"more": `ln f g`, "less": `rm f`, "link": `ln -sfn y l`, "directory": `touch -d @7 d`,
	} {
		v0, v1 := t.TempDir(), t.TempDir()
		for _, dir := range []string{v0, v1} {
			must(t, `cd "$D"; mkdir d; printf abc > f; ln -s x l; touch -h -d @1 l; touch -d @1 f d .`, "D="+dir)
		}
		same, err := treecheck.Compare(v0, v1)
		require.NoError(t, err)
		require.Empty(t, same)
		must(t, `cd "$D"; `+change, "D="+v1)
		must(t, `touch -d @1 "$D"`, "D="+v1)
		diff, err := treecheck.Compare(v0, v1)
		require.NoError(t, err)
		require.NotEmpty(t, diff, name)
	}
}
