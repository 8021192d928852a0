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
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// eventually waits for something that the service does by itself.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, time.Minute, 5*time.Millisecond, what)
}

// labHostWithout registers a host of the pool that never polls again.
func (h *host) gone() {
	h.b.t.Helper()
	require.NoError(h.b.t, h.c.Leave(h.b.t.Context(), h.id, api.Leave{Session: h.reg.Session}))
}

// queueOne has the lab give out a job that then waits: its host takes the claim and is
// silent about it until it leaves.
func queueOne(t *testing.T, l *lab, b *bench, id int64) {
	t.Helper()
	h := b.newLabHost(l, "host-x", 1)
	l.add(id, "build", "one")
	h.takes()
	h.gone()
}

// A job that waits is kept alive, its log says why it waits, and the host that gets it
// is told exactly what was written.
func TestGitLabWaits(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	eventually(t, "kept alive and told", func() bool {
		j := l.get(11)
		return len(j.updates) > 2 && len(j.trace) > 0
	})
	j := l.get(11)
	require.Equal(t, "roost: waiting: no host of pool linux of "+strings.TrimPrefix(l.http.URL, "http://")+" is there\n", string(j.trace))
	time.Sleep(500 * time.Millisecond)
	require.Equal(t, 1, bytes.Count(l.get(11).trace, []byte("\n")), "once for each reason")

	h := b.newLabHost(l, "host-a", 1)
	c := h.takes()
	require.Equal(t, string(l.get(11).trace), string(c.External.Log))
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	n := -1 // one may be on its way
	eventually(t, "its host keeps it alive now", func() bool {
		was := n
		n = len(l.get(11).updates)
		if was != n {
			time.Sleep(500 * time.Millisecond)
		}
		return was == n
	})
	require.Equal(t, string(c.External.Log), string(l.get(11).trace))
}

// Where the server can do that a job stays pending until its runner has it. It has no
// log then: what would be said there is said when it begins.
func TestGitLabTwoPhase(t *testing.T) {
	l := newLab(t)
	l.twoPhase = true
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	eventually(t, "kept alive", func() bool { return len(l.get(11).updates) > 3 })
	time.Sleep(1500 * time.Millisecond) // it has to wait for two seconds in all
	j := l.get(11)
	require.NotContains(t, j.updates, "running")
	require.Empty(t, j.trace)
	h := b.newLabHost(l, "host-a", 1)
	c := h.takes()
	require.Empty(t, c.External.Log)
	require.Len(t, c.External.Notes, 1)
	require.Regexp(t, `^waited [0-9]+ s for a host: no host of pool linux of .* is there$`, c.External.Notes[0])
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	_, err := h.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Reason: "x"})
	require.NoError(t, err)
	c = h.takes()
	require.NoError(t, h.c.Accept(t.Context(), ref(c)))
	h.gone()
	eventually(t, "ended", func() bool { return l.get(11).ends == 1 })
	require.Equal(t, "failed", l.get(11).state)
}

// Where the server knows no jobs that wait, they are kept alive as running ones.
func TestGitLabOnePhase(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	queueOne(t, l, b, 11)
	eventually(t, "kept alive", func() bool { return len(l.get(11).updates) > 3 })
	require.Equal(t, []string{"pending", "running", "running"}, l.get(11).updates[:3])
}

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

// A job that GitLab cancels while it waits is gone; one that is being canceled is
// ended there, too.
func TestGitLabCanceled(t *testing.T) {
	for state, ends := range map[string]int{"canceled": 0, "canceling": 1} {
		l := newLab(t)
		b := newLabBench(t, l)
		queueOne(t, l, b, 11)
		l.cancel(11, state)
		p := onlyPipeline(t, b)
		eventually(t, state, func() bool { return b.job(p, "build").Status == api.StatusCanceled })
		eventually(t, state, func() bool { j := l.get(11); return j.ends == ends && j.state == "canceled" })
		h := b.newLabHost(l, "host-a", 1)
		require.Empty(t, h.offer(200*time.Millisecond))
	}
}

func onlyPipeline(t *testing.T, b *bench) *api.Pipeline {
	t.Helper()
	ps, err := b.user.Pipelines(t.Context(), "", 5)
	require.NoError(t, err)
	require.Len(t, ps, 1)
	return &ps[0]
}

// A host that was lost with a job that it had accepted: GitLab is told until it
// answers, also by the next coordinator, and the job is not run again.
func TestGitLabHostLost(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	l.mu.Lock()
	l.jobs[11].state, l.jobs[11].trace = "running", []byte("the runner's own\n")
	down := true
	l.fault = func(w http.ResponseWriter, r *http.Request, after func()) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if down && strings.HasPrefix(r.URL.Path, "/api/v4/jobs/11") {
			w.WriteHeader(502)
			return true
		}
		return false
	}
	l.mu.Unlock()
	h.gone()
	p := onlyPipeline(t, b)
	require.Equal(t, api.StatusFailed, b.job(p, "build").Status)
	require.Equal(t, api.FailHostLost, b.job(p, "build").Code)
	time.Sleep(100 * time.Millisecond)
	b.restart()
	require.Zero(t, l.get(11).ends)
	l.mu.Lock()
	down = false
	l.mu.Unlock()
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	j := l.get(11)
	require.Equal(t, "failed", j.state)
	require.Equal(t, "runner_system_failure", j.reason)
	require.True(t, strings.HasPrefix(string(j.trace), "the runner's own\n"))
	h2 := b.newLabHost(l, "host-b", 1)
	require.Empty(t, h2.offer(300*time.Millisecond))
	require.Equal(t, 1, l.get(11).ends)
	require.Empty(t, payloads(t, b), "nothing of it is kept")
	_, err := h2.c.Finish(t.Context(), ref(c), api.Finish{Status: api.StatusSuccess})
	require.ErrorIs(t, err, &api.Error{Code: api.CodeFenced})
}

// payloads lists the jobs whose payloads are stored.
func payloads(t *testing.T, b *bench) []string {
	t.Helper()
	b.s.mu.RLock()
	defer b.s.mu.RUnlock()
	var out []string
	for id := range b.s.world.jobs {
		if _, err := b.s.state.Payload(t.Context(), id); err == nil {
			out = append(out, id)
		}
	}
	return out
}

// Until a runner saw it, a job goes from host to host under rising epochs, without a
// word to GitLab.
func TestGitLabNextHost(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.AcceptTimeout = 3 * time.Second })
	a := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one")
	first := a.takes()
	require.Equal(t, int64(1), first.Epoch)
	h := b.newLabHost(l, "host-b", 1)
	second := h.takes() // host-a never accepted
	require.Equal(t, int64(2), second.Epoch)
	require.ErrorIs(t, a.c.Accept(t.Context(), ref(first)), &api.Error{Code: api.CodeFenced})
	require.NoError(t, h.c.Accept(t.Context(), ref(second)))
	_, err := h.c.Finish(t.Context(), ref(second), api.Finish{
		Status: api.StatusFailed, Infrastructure: true, Undelivered: true, Code: api.FailUndelivered, Reason: "its runner went away",
	})
	require.NoError(t, err)
	c := b.newLabHost(l, "host-c", 1)
	third := c.takes()
	require.Equal(t, int64(3), third.Epoch)
	j := l.get(11)
	require.Equal(t, string(j.trace), string(third.External.Log))
	require.Contains(t, string(third.External.Log), "gave it back")
	require.NotContains(t, j.updates, "failed")
	c.begin(third)
	c.succeed(third)
	require.Equal(t, 1, l.get(11).given)
	require.Zero(t, l.get(11).ends)
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

// An infrastructure failure of a job that its runner has ends it.
func TestGitLabInfrastructure(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.TellGrace = 2 * time.Second })
	h := b.newLabHost(l, "host-b", 1)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	f := api.Finish{Status: api.StatusFailed, Infrastructure: true, Code: api.FailAttach, Reason: "no room"}
	for range 2 {
		_, err := h.c.Finish(t.Context(), ref(c), f)
		require.NoError(t, err)
	}
	time.Sleep(150 * time.Millisecond)
	require.Zero(t, l.get(11).ends, "its host may tell it itself")
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	require.Empty(t, l.get(11).trace, "the end of its log is its host's")
	require.Equal(t, api.StatusFailed, b.job(onlyPipeline(t, b), "build").Status)
}

// Tokens and variables are nowhere but in the sealed payload, and that is gone with
// the job.
func TestGitLabSecrets(t *testing.T) {
	l := newLab(t)
	var log bytes.Buffer
	b := newLabBench(t, l, func(o *Options) { o.Log = testLog(&log) })
	h := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one")
	c := h.takes()
	h.begin(c)
	scan := func() {
		t.Helper()
		require.NoError(t, filepath.WalkDir(b.o.Dir, func(p string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			text, err := os.ReadFile(p)
			require.NoError(t, err)
			require.NotContains(t, string(text), "canary", p)
			return nil
		}))
		require.NotContains(t, log.String(), "canary")
		p, err := b.user.Pipeline(t.Context(), onlyPipeline(t, b).ID)
		require.NoError(t, err)
		require.NotContains(t, jsonText(t, p), "canary")
	}
	scan()
	require.Len(t, payloads(t, b), 1)
	info, err := os.Stat(filepath.Join(b.o.Dir, "payload.key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	h.succeed(c)
	require.Empty(t, payloads(t, b))
	scan()
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

// A job that GitLab gives again while it waits here is here once, with its new token.
func TestGitLabGivenAgain(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) {
		tune := o.tune
		o.tune = func(g *gitlab.Options) { tune(g); g.KeepAlive = time.Hour }
	})
	queueOne(t, l, b, 11)
	eventually(t, "a line", func() bool { return len(l.get(11).trace) > 0 })
	h := b.newLabHost(l, "host-y", 2)
	c := h.takes()
	l.renew(11)
	eventually(t, "given again", func() bool {
		h.offer(100 * time.Millisecond) // the claim that it has not accepted, told again
		return l.get(11).given == 2
	})
	h.gone()
	h = b.newLabHost(l, "host-a", 1)
	again := h.takes()
	require.Equal(t, c.Job.Name, again.Job.Name)
	require.Contains(t, string(again.External.Payload), "canary-11-2")
	h.begin(again)
	h.succeed(again)
	p, err := b.user.Pipeline(t.Context(), onlyPipeline(t, b).ID)
	require.NoError(t, err)
	require.Len(t, p.Jobs, 1)
}

// Only the servers of the configuration are asked.
func TestGitLabURLs(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.GitLabURLs = []string{"https://gitlab.example.com/"} })
	h := &host{b: b, c: b.client(agentToken), reg: api.Register{
		Name: "host-a", StoreID: newID(t), Session: newID(t), Slots: 1, Driver: "copy", Pool: l.pool(),
	}}
	_, err := h.c.Register(t.Context(), h.reg)
	require.ErrorIs(t, err, &api.Error{Code: api.CodeForbidden})
	require.ErrorContains(t, err, "coordinator.gitlab_urls")
	h.reg.Pool.URL = "https://GitLab.example.com:443/ci/"
	_, err = h.c.Register(t.Context(), h.reg)
	require.NoError(t, err)
	for _, edit := range []func(*api.Pool){
		func(p *api.Pool) { p.System = "jenkins" },
		func(p *api.Pool) { p.Name = "" },
		func(p *api.Pool) { p.URL = "file:///etc/passwd" },
		func(p *api.Pool) { p.URL = "https://user@gitlab.example.com" },
		func(p *api.Pool) { p.Tokens = make([]string, 99) },
		func(p *api.Pool) { p.Tokens = []string{""} },
		func(p *api.Pool) { p.Tokens = []string{"a\nb"} },
		func(p *api.Pool) { p.Mode = "maybe" },
		func(p *api.Pool) { p.Durability = "for ever" },
		func(p *api.Pool) { p.FetchBudgetMS = -1 },
	} {
		pool := l.pool()
		pool.URL = "https://gitlab.example.com"
		edit(pool)
		h.reg.Pool = pool
		_, err = h.c.Register(t.Context(), h.reg)
		require.ErrorIs(t, err, &api.Error{Code: api.CodeInvalid})
	}
	_, err = Open(t.Context(), Options{Dir: t.TempDir(), AgentToken: agentToken, UserToken: userToken, GitLabURLs: []string{"gitlab"}})
	require.ErrorContains(t, err, "coordinator.gitlab_urls")
}

// Jobs that are submitted here and jobs of a pool never meet on a host.
func TestGitLabHostsAreApart(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	p := b.submit("native: {script: [x]}")
	require.Empty(t, h.offer(100*time.Millisecond))
	require.Equal(t, "takes only jobs of pool linux of "+strings.TrimPrefix(l.http.URL, "http://"), b.job(p, "native").Placed.Candidates[0].Excluded)
	n := b.newHost("host-n", 1)
	l.add(11, "build", "one")
	c := h.takes()
	require.Equal(t, "build", c.Job.Name)
	n.run("native")
}

// The log names the host that is waited for, and the wait is bounded by the job's own
// time.
func TestGitLabWaitsForHolder(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-b", 2)
	h.reg.Slots = 1
	h.free = 1
	h.register()
	_, build := h.one(l, 11, "build", "one", deps())
	h.upload(build, "", 300<<30)
	l.add(12, "long", "one", deps())
	c := h.takes()
	h.begin(c)
	a := b.newLabHost(l, "host-a", 1)
	l.add(13, "test", "two", deps(11))
	require.Empty(t, a.offer(1500*time.Millisecond))
	require.Regexp(t, `^roost: waiting for host-b, which holds 2\.9 TiB of this workspace, about [0-9]+ s\n$`, string(l.get(13).trace))
	p := onlyPipeline(t, b)
	require.Equal(t, api.WaitHolder, b.job(p, "test").Code)
	h.succeed(c)
	c = h.takes()
	require.Equal(t, "test", c.Job.Name)
	require.Equal(t, string(l.get(13).trace), string(c.External.Log))
}

// A runner that has ended a job asks again after a moment, whatever its host says
// meanwhile: the next job of the line does not move for that moment, however little
// would have to.
func TestGitLabWaitsForRunner(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-b", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	h.upload(build, "", 1000)
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	a := b.newLabHost(l, "host-a", 1)
	l.add(12, "test", "two", deps(11))
	require.Empty(t, a.offer(pollGap+time.Second))
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	c := h.takes()
	require.Equal(t, "test", c.Job.Name)
	h.begin(c)
	h.succeed(c)

	// One that does not come back is not waited for longer than that.
	l.add(13, "deploy", "three", deps(12))
	h.beat(func(hb *api.Heartbeat) { hb.FreeSlots = 0 })
	h.upload(newestOutput(t, b, "test"), build, 1000)
	b.s.mu.Lock()
	p := b.s.world.fleet["host-b"]
	for i := range p.back {
		p.back[i] = p.back[i].Add(-runnerBack)
	}
	p.expect = time.Time{}
	b.s.mu.Unlock()
	require.Equal(t, "deploy", a.takes().Job.Name)
}

func newestOutput(t *testing.T, b *bench, name string) snapshot.ID {
	t.Helper()
	return b.job(onlyPipeline(t, b), name).Workspace.Output
}

func TestOutsideBound(t *testing.T) {
	for minutes, want := range map[int64]float64{10: 30, 20: 60, 60: 120, 6000: 120} {
		require.InDelta(t, want, outsideBound(&state.Job{Def: &state.Def{Spec: api.JobSpec{TimeoutMS: minutes * 60_000}}}), 1e-9)
	}
}

// A job can't wait for longer than its own time: its token ends with that.
func TestGitLabWaitsNoLongerThanItsTime(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-x", 1)
	l.add(11, "build", "one", func(p map[string]any) { p["runner_info"] = map[string]any{"timeout": 1} })
	h.takes()
	h.gone()
	p := onlyPipeline(t, b)
	eventually(t, "given up", func() bool { return b.job(p, "build").Code == api.FailTimeout })
	eventually(t, "told", func() bool { return l.get(11).ends == 1 })
	require.Contains(t, string(l.get(11).trace), "no host could run it for 1s")
}
