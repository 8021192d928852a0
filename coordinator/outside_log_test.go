package coordinator

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// Answers to PATCH that were lost, after it was done and before, neither double nor
// lose a byte, and nobody gets the job before that is known.
func TestGitLabLostLogAnswers(t *testing.T) {
	for _, done := range []bool{true, false} {
		l := newLab(t)
		b := newLabBench(t, l)
		var lost atomic.Int32
		l.fault = func(w http.ResponseWriter, r *http.Request, after func()) bool {
			if r.Method != http.MethodPatch || lost.Load() >= 3 {
				return false
			}
			lost.Add(1)
			if done {
				after()
			}
			panic(http.ErrAbortHandler)
		}
		queueOne(t, l, b, 11)
		eventually(t, "a line", func() bool { return lost.Load() > 0 })
		h := b.newLabHost(l, "host-a", 1)
		c := h.takes()
		require.Equal(t, int32(3), lost.Load(), "not before it was known")
		require.Equal(t, 1, bytes.Count(c.External.Log, []byte("\n")))
		require.Equal(t, string(l.get(11).trace), string(c.External.Log))
	}
}

// The same when the coordinator stops in between.
func TestGitLabLogSurvivesRestart(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	broken := true
	l.fault = func(w http.ResponseWriter, r *http.Request, after func()) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if r.Method != http.MethodPatch || !broken {
			return false
		}
		l.mu.Unlock()
		after()
		l.mu.Lock()
		panic(http.ErrAbortHandler)
	}
	queueOne(t, l, b, 11)
	eventually(t, "a line", func() bool { return len(l.get(11).trace) > 0 })
	h := b.newLabHost(l, "host-a", 1)
	require.Empty(t, h.offer(300*time.Millisecond), "not before it is known what its log holds")
	b.restart()
	h.b = b
	h.register()
	require.Empty(t, h.offer(300*time.Millisecond))
	l.mu.Lock()
	broken = false
	l.mu.Unlock()
	c := h.takes()
	require.Equal(t, string(l.get(11).trace), string(c.External.Log))
	require.NotEmpty(t, c.External.Log)
}

// What somebody else wrote in between counts: the next host starts behind it.
func TestGitLabForeignLog(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-b", 1)
	l.add(11, "build", "one")
	c := h.takes()
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	l.mu.Lock()
	l.jobs[11].trace = []byte("attaching...\n")
	l.mu.Unlock()
	_, err := h.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Reason: "x"})
	require.NoError(t, err)
	c = h.takes()
	require.Len(t, c.External.Log, len(l.get(11).trace))
	require.True(t, strings.HasPrefix(string(l.get(11).trace), "attaching...\nroost: "))
}

// A log that GitLab lost begins anew.
func TestGitLabLogGone(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	eventually(t, "a line", func() bool { return len(l.get(11).trace) > 0 })
	l.mu.Lock()
	l.jobs[11].trace = nil
	l.mu.Unlock()
	a := b.newLabHost(l, "host-b", 1)
	c := a.takes()
	require.NoError(t, a.c.Accept(t.Context(), ref(c)))
	_, err := a.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Reason: "x"})
	require.NoError(t, err)
	c = a.takes()
	require.Equal(t, string(l.get(11).trace), string(c.External.Log))
	require.NotEmpty(t, c.External.Log)
}

// A job whose payload no key opens ends, and says why.
func TestGitLabLostKey(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	b.stop()
	require.NoError(t, os.Remove(filepath.Join(b.o.Dir, "payload.key")))
	b.start()
	p := onlyPipeline(t, b)
	eventually(t, "ended", func() bool { return b.job(p, "build").Status == api.StatusFailed })
	require.Contains(t, b.job(p, "build").Reason, "key")
}

func TestOutsideBound(t *testing.T) {
	for minutes, want := range map[int64]float64{10: 30, 20: 60, 60: 120, 6000: 120} {
		require.InDelta(t, want, outsideBound(&state.Job{Def: &state.Def{Spec: api.JobSpec{TimeoutMS: minutes * 60_000}}}), 1e-9)
	}
}
