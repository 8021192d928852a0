package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestLogLimit(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a")
	h.edit = func(o *Options) { o.LogLimit = 10_000 }
	h.start()
	at := f.give("a", job("loud", "seq 1 100000", "touch end"))
	fin := f.green(at)
	require.NotEmpty(t, fin.Output)
	log := f.logOf(at)
	require.Less(t, len(log), 12_000)
	require.Contains(t, log, "the log is longer than 10000 bytes")
	require.Contains(t, log, "roost: job success", "our own lines are not lost")
	require.Equal(t, 1, strings.Count(log, "is longer than"))
}

// TestLogGap: the coordinator lost the end of a log in a power cut; it gets it again.
func TestLogGap(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	release := filepath.Join(t.TempDir(), "go")
	at := f.give("a", job("long", "for i in $(seq 1 30); do echo line $i; sleep 0.02; test $i -lt 10 || until test -e "+release+"; do sleep 0.02; done; done"))
	f.wait("start", func() bool { return strings.Contains(string(at.log), "line 5\n") })
	f.edit(func() { at.log = at.log[:20] })
	require.NoError(t, os.WriteFile(release, nil, 0o644))
	f.green(at)
	for i := 1; i <= 30; i++ {
		require.Equal(t, 1, strings.Count(f.logOf(at), fmt.Sprintf("\nline %d\n", i)), i)
	}
}

// TestLogIsNotTaken: an attempt ends although its log can't be sent.
func TestLogIsNotTaken(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for logPatience")
	}
	f := newFake(t)
	newHost(t, f, "a").start()
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasSuffix(p, "/log") } })
	begin := time.Now()
	at := f.give("a", job("one", "echo x"))
	f.green(at)
	require.Greater(t, time.Since(begin), logPatience*3/4)
	require.Less(t, time.Since(begin), logPatience+time.Minute)
}

func TestLogThroughput(t *testing.T) {
	f := newFake(t)
	newHost(t, f, "a").start()
	begin := time.Now()
	at := f.give("a", job("loud", "seq 1 2000000 | tail -c 10000000"))
	f.green(at)
	t.Logf("10 MB of log in %s", time.Since(begin))
	require.True(t, strings.Contains(f.logOf(at), "\n1999999\n2000000\n"))
}

// TestUnchangedIsDropped: what was sealed only to be looked at takes no room.
func TestUnchangedIsDropped(t *testing.T) {
	f := newFake(t)
	h := newHost(t, f, "a").start()
	base := f.give("a", job("base", "echo b > b"))
	f.green(base)
	at := f.give("a", with(from(job("same", "cat b"), base), func(w *api.WorkspaceSpec) { w.Commit = "if-changed" }))
	require.Equal(t, api.SealUnchanged, f.green(at).Code)
	require.Eventually(t, func() bool {
		_, err := h.store.Lookup(at.claim.Attempt)
		return err != nil
	}, time.Minute, 10*time.Millisecond)
	require.NoFileExists(t, h.dir+"/store/logs/"+string(at.claim.Attempt)+".log")
	_, err := os.Stat(h.dir + "/store/logs")
	require.NoError(t, err)
}
