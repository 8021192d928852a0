package coordinator

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
)

// eventually waits for something that the service does by itself.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	require.Eventually(t, f, time.Minute, 5*time.Millisecond, what)
}

// gone is a host that says good-bye.
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
