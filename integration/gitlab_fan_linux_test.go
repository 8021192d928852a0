package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/integration/gitlabtest"
	"github.com/roost-ci/roost/integration/treecheck"
	"github.com/roost-ci/roost/internal/testenv"
)

// fan is a pipeline of one job, n side by side, and one that needs them all. They end
// in the order of their numbers, or the other way round.
func fan(n int, back bool) gitlabtest.PipelineDef {
	tenths := "CI_NODE_INDEX"
	if back {
		tenths = fmt.Sprintf("%d - CI_NODE_INDEX", n)
	}
	return chain(
		gitlabtest.JobDef{Name: "build", Script: []string{"mkdir -p out/common", "echo base > out/base", "echo state=$ROOST_WORKSPACE_STATE"}},
		gitlabtest.JobDef{Name: "unit", Parallel: n, Script: []string{
			`test $(cat out/base) = base`,
			"w=$((3 + " + tenths + ")); sleep $((w / 10)).$((w % 10))",
			`mkdir out/$CI_NODE_INDEX`,
			`echo $CI_NODE_INDEX > out/$CI_NODE_INDEX/own; echo $CI_NODE_INDEX > out/common/$CI_NODE_INDEX`,
		}},
		gitlabtest.JobDef{Name: "join", Script: []string{
			`echo files=$(cd out && find . -type f | sort | tr '\n' ' ')`,
			`echo content=$(cd out && find . -type f | sort | xargs cat | tr '\n' ' ')`,
			`echo state=$ROOST_WORKSPACE_STATE`,
		}},
	)
}

// TestGitLabFan: twelve jobs that need one run on several hosts, and the job that needs
// them all finds what each of them left, whoever was first.
func TestGitLabFan(t *testing.T) {
	testenv.Require(t, testenv.Git)
	t.Parallel()
	const n = 12
	l := newLab(t, held, 3, 2)
	p := l.gl.AddProject(t, "group/app", map[string]string{".gitignore": "out/\n"})
	var sums []string
	for _, back := range []bool{false, true} {
		pl := l.run(p, fan(n, back))
		hosts := map[string]int{}
		for i := 1; i <= n; i++ {
			j := newest(t, l.record(pl), fmt.Sprintf("unit %d/%d", i, n))
			hosts[j.Host]++
			require.Equal(t, api.StateFull, j.Workspace.State, "%s: %s", j.Name, j.Workspace.Reason)
		}
		t.Logf("jobs side by side: %v", hosts)
		require.Greater(t, len(hosts), 1, "all ran on one host")
		join := newest(t, l.record(pl), "join")
		require.Equal(t, api.WorkspaceMerged, join.Workspace.Code, join.Workspace.Reason)
		require.Len(t, join.Workspace.Inputs, n)
		got := says(pl.Job("join"))
		require.Equal(t, "FULL", got["state"])
		require.Len(t, strings.Fields(got["files"]), 2*n+1, got["files"])
		sums = append(sums, got["files"]+got["content"])
	}
	require.Equal(t, sums[0], sums[1], "what a merge gives must not depend on who was first")
	l.gl.MustBeRight(t)
}

// odd makes a tree of all that a snapshot has to keep.
var odd = []string{
	"mkdir -p t/sub/deep t/empty && cd t",
	"head -c 300000 /dev/urandom > sub/big; truncate -s 3M sub/sparse; printf tail >> sub/sparse",
	"echo run > tool; chmod 0751 tool; echo read > ro; chmod 0440 ro; chmod 0700 empty; echo s > setgid; chmod 2755 setgid",
	"ln sub/big sub/deep/twin; ln -s sub/big link; ln -s /nowhere/at/all dangling; ln -s .. sub/up",
	"printf x > $'name\\nwith\\tcontrols'; printf y > $'\\xff\\xfe'; touch -- '-rf' ' spaces  '",
	"touch -d '2001-02-03 04:05:06.123456789' tool; touch -h -d '1999-12-31 23:59:59.987654321' link dangling",
	"touch -d '2010-10-10 10:10:10.000000001' sub/deep sub empty; chown 1234:4321 ro",
	"touch -d '2033-03-03 03:03:03.333333333' .",
	"cd ..",
}

// TestGitLabPinned: a job that one host alone may run finds there exactly the tree that
// the job before it left on another one.
func TestGitLabPinned(t *testing.T) {
	testenv.Require(t, testenv.Git, "make")
	t.Parallel()
	l := newPinnedLab(t, held, 3, 1)
	p := l.gl.AddProject(t, "group/app", sources)
	copyTo := func(name string) string { return "cp -a . " + l.mark(name) }
	pl := l.run(p, chain(
		gitlabtest.JobDef{Name: "build", Script: append(odd, "make -s", copyTo("left"))},
		gitlabtest.JobDef{Name: "far", Tags: []string{"host-c"}, Script: []string{copyTo("found"), "make -q", "echo more > t/more"}},
		gitlabtest.JobDef{Name: "back", Script: []string{"test $(cat t/more) = more", "rm t/more", copyTo("again"), "make -q"}},
	))
	rec := l.record(pl)
	for _, name := range []string{"far", "back"} {
		j := newest(t, rec, name)
		require.Equal(t, api.StateFull, j.Workspace.State, "%s: %s", name, j.Workspace.Reason)
		require.Positive(t, j.Workspace.BytesMoved, name)
	}
	require.Equal(t, "host-c", newest(t, rec, "far").Host)
	require.Equal(t, "host-c", l.hostOf(pl.Job("far")))
	require.NotEqual(t, "host-c", newest(t, rec, "build").Host)

	// Git's own files change with each checkout, and t with what came and went there.
	ignore := func(path string) bool { return path == ".git" || strings.HasPrefix(path, ".git/") }
	diff, err := treecheck.Options{Ignore: ignore}.Compare(l.mark("left"), l.mark("found"))
	require.NoError(t, err)
	require.Empty(t, diff)
	require.NoError(t, os.Chtimes(l.mark("again")+"/t", fileTime(t, l.mark("left")+"/t"), fileTime(t, l.mark("left")+"/t")))
	diff, err = treecheck.Options{Ignore: ignore}.Compare(l.mark("left"), l.mark("again"))
	require.NoError(t, err)
	require.Empty(t, diff)
	l.gl.MustBeRight(t)
}
