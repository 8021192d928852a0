package coordinator

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// one lets the lab's next job run on h to its success.
func (h *host) one(l *lab, id int64, name, stage string, edit ...func(map[string]any)) (api.Claim, snapshot.ID) {
	h.b.t.Helper()
	l.add(id, name, stage, edit...)
	c := h.takes()
	require.Equal(h.b.t, name, c.Job.Name)
	h.begin(c)
	return c, h.succeed(c)
}

func deps(ids ...int64) func(map[string]any) {
	return func(p map[string]any) {
		list := []any{}
		for _, id := range ids {
			list = append(list, map[string]any{"id": id})
		}
		p["dependencies"] = list
	}
}

func variables(kv ...string) func(map[string]any) {
	return func(p map[string]any) {
		for i := 0; i < len(kv); i += 2 {
			p["variables"] = append(p["variables"].([]any), map[string]any{"key": kv[i], "value": kv[i+1]})
		}
	}
}

func inputs(c api.Claim) []snapshot.ID {
	var out []snapshot.ID
	for _, in := range c.Inputs {
		out = append(out, in.Snapshot)
	}
	return out
}

// The rules by which a job's parents are found, in their order.
func TestGitLabParents(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	_, lint := h.one(l, 12, "lint", "one", deps())
	c, test := h.one(l, 13, "test", "two", deps(11, 12, 999))
	require.Equal(t, []snapshot.ID{build, lint}, inputs(c))
	require.Equal(t, []string{"11", "12"}, c.External.Contained)
	require.Equal(t, "dependencies", c.External.Parents)

	// What stands in the list beside its own descendant is contained in that.
	c, _ = h.one(l, 14, "pack", "three", deps(11, 12, 13))
	require.Equal(t, []snapshot.ID{test}, inputs(c))
	require.Equal(t, []string{"11", "12", "13"}, c.External.Contained)

	c, _ = h.one(l, 15, "none", "three", deps())
	require.Empty(t, c.Inputs)

	c, _ = h.one(l, 16, "named", "three", deps(11), variables("ROOST_NEEDS", "lint, nothing"))
	require.Equal(t, []snapshot.ID{lint}, inputs(c))
	require.Equal(t, "ROOST_NEEDS", c.External.Parents)
	require.Equal(t, []string{`ROOST_NEEDS names "nothing", which did not run here in this pipeline`}, c.External.Notes)

	c, _ = h.one(l, 17, "stages", "two")
	require.Equal(t, "the jobs of other stages that had succeeded", c.External.Parents)
	require.NotContains(t, c.External.Contained, "15x")
	require.NotContains(t, inputs(c), test, "a job of its own stage is no parent")

	// A retry has the name of the first one and takes its place.
	_, build2 := h.one(l, 18, "build", "one", deps())
	c, _ = h.one(l, 19, "after", "four", deps(), variables("ROOST_NEEDS", "build"))
	require.Equal(t, []snapshot.ID{build2}, inputs(c))
	c, _ = h.one(l, 20, "by id", "four", deps(11))
	require.Equal(t, []snapshot.ID{build}, inputs(c), "an id is an id")
}

// With a token that reads pipelines GitLab itself says what a job needs.
func TestGitLabNeeds(t *testing.T) {
	l := newLab(t)
	l.needs = map[int64][]string{13: {"lint"}}
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	h.reg.Pool.APIToken = "api-token-canary"
	h.register()
	_, build := h.one(l, 11, "build", "one", deps())
	_, lint := h.one(l, 12, "lint", "one", deps())
	c, _ := h.one(l, 13, "test", "two", deps(11))
	require.Equal(t, []snapshot.ID{lint}, inputs(c))
	require.Equal(t, "needs, as GitLab's API says", c.External.Parents)
	c, _ = h.one(l, 14, "test 2", "two", deps(11))
	require.Equal(t, []snapshot.ID{build}, inputs(c))
	require.Equal(t, "dependencies", c.External.Parents, "it has no needs")

	h.reg.Pool.APIToken, h.reg.Holdings = "wrong", []api.Holding{{ID: build}, {ID: lint}}
	h.register()
	c, _ = h.one(l, 15, "test 3", "two", deps(11))
	require.Equal(t, []snapshot.ID{build}, inputs(c), "without an answer it goes on")
}

// A parent that has ended in GitLab and not yet here is waited for.
func TestGitLabLateParent(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 2)
	l.add(11, "build", "one")
	first := h.takes()
	h.begin(first)
	l.add(12, "test", "two", deps(11))
	require.Empty(t, h.offer(300*time.Millisecond))
	out := h.succeed(first)
	c := h.takes()
	require.Equal(t, []snapshot.ID{out}, inputs(c))
}

// Seeds are planted as long as nothing failed, and go to the same job of a later
// pipeline of the same zone alone.
func TestGitLabSeeds(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	pipeline := func(id int64, protected bool) func(map[string]any) {
		return func(p map[string]any) {
			p["job_info"].(map[string]any)["pipeline_id"] = id
			p["git_info"].(map[string]any)["protected"] = protected
			p["dependencies"] = []any{}
		}
	}
	c, first := h.one(l, 11, "build", "one", pipeline(100, false))
	require.Equal(t, api.WorkspaceCold, c.Code)
	c, _ = h.one(l, 12, "build", "one", pipeline(101, false))
	require.Equal(t, []snapshot.ID{first}, inputs(c))
	require.Equal(t, api.WorkspaceSeed, c.Code)
	require.Empty(t, c.External.Contained, "what another pipeline left is no job's artifact")
	c, _ = h.one(l, 13, "build", "one", pipeline(102, true))
	require.Empty(t, c.Inputs, "another zone")

	// After a failure nothing in that pipeline is worth a seed.
	l.add(14, "bad", "one", pipeline(103, false))
	c = h.takes()
	h.begin(c)
	_, err := h.end(c, api.Finish{Status: api.StatusFailed, Code: api.FailScript, ExitCode: 1})
	require.NoError(t, err)
	_, spoilt := h.one(l, 15, "build", "one", pipeline(103, false))
	c, _ = h.one(l, 16, "build", "one", pipeline(104, false))
	require.NotEqual(t, []snapshot.ID{spoilt}, inputs(c))
	require.NotEmpty(t, c.Inputs)
	require.Equal(t, 1, l.get(14).given, "a failed script is GitLab's to try again")
}

// One pipeline in two zones is two: what is protected shares with nothing else.
func TestGitLabZonesAreApart(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	h.one(l, 11, "build", "one", deps())
	c, _ := h.one(l, 12, "test", "two", deps(11), func(p map[string]any) {
		p["git_info"].(map[string]any)["protected"] = true
	})
	require.Empty(t, c.Inputs)
	require.Empty(t, c.External.Contained)
	c2, _ := h.one(l, 13, "test", "two", deps(11), func(p map[string]any) {
		p["git_info"].(map[string]any)["ref"] = "refs/merge-requests/3/head"
	})
	require.Empty(t, c2.Inputs)
	require.NotEqual(t, c.DomainKey, c2.DomainKey)
}

// A job that is left alone says why; one that must have its workspace does not run
// without it.
func TestGitLabOff(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	for i, edit := range []func(map[string]any){
		variables("GIT_STRATEGY", "clone"),
		variables("ROOST_WORKSPACE", "off"),
		func(p map[string]any) { p["policy_options"] = map[string]any{"execution_policy_job": true} },
	} {
		l.add(int64(20+i), "off", "two", deps(11), edit)
		c := h.takes()
		require.Empty(t, c.Inputs)
		require.NotEmpty(t, c.External.Off)
		require.True(t, c.Job.Workspace.Disabled)
		require.Equal(t, api.WorkspaceOff, c.Code)
		h.begin(c)
		_, err := h.end(c, api.Finish{Status: api.StatusSuccess})
		require.NoError(t, err)
	}
	c, _ := h.one(l, 30, "after", "three", deps(11, 20, 21))
	require.Equal(t, []snapshot.ID{build}, inputs(c), "they leave nothing and take nothing away")

	l.add(31, "must", "three", deps(11), variables("GIT_STRATEGY", "none", "ROOST_WORKSPACE", "required"))
	require.Empty(t, h.offer(200*time.Millisecond))
	eventually(t, "failed", func() bool { return l.get(31).ends == 1 })
	require.Contains(t, string(l.get(31).trace), "it asks for its workspace, which it can't have: its GIT_STRATEGY is none")

	h.reg.Pool.Mode, h.reg.Pool.Durability = "off", "durable"
	h.register()
	l.add(32, "host's word", "three", deps(11))
	c = h.takes()
	require.Equal(t, "its host says so", c.External.Off)
	require.Equal(t, "durable", c.External.Durability)
}

// A parent that should have left its files and did not: an optional job starts fresh,
// a required one fails before its first command.
func TestGitLabBrokenParent(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	l.add(11, "build", "one", deps())
	c := h.takes()
	h.begin(c)
	_, err := h.end(c, api.Finish{Status: api.StatusSuccess, Code: api.SealFailed, Reason: "x"})
	require.NoError(t, err)
	l.add(12, "optional", "two", deps(11))
	c = h.takes()
	require.Empty(t, c.Inputs)
	require.Equal(t, api.WorkspaceLost, c.Code)
	h.begin(c)
	h.succeed(c)
	l.mu.Lock()
	l.twoPhase = true // it has no log before it runs
	l.mu.Unlock()
	l.add(13, "required", "two", deps(11), variables("ROOST_WORKSPACE", "required"))
	require.Empty(t, h.offer(200*time.Millisecond))
	eventually(t, "failed", func() bool { return l.get(13).ends == 1 })
	require.Equal(t, "runner_system_failure", l.get(13).reason)
	require.True(t, strings.Contains(string(l.get(13).trace), "build succeeded but its files could not be kept"))
}

// A pipeline is closed when nothing comes any more, and opened again when something
// does, with all that it knew.
func TestGitLabReopen(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l, func(o *Options) { o.PipelineIdle = time.Millisecond })
	h := b.newLabHost(l, "host-a", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	p := onlyPipeline(t, b)
	for _, restart := range []bool{false, true} {
		require.NoError(t, b.s.do(t.Context(), func(x *txn) error {
			time.Sleep(5 * time.Millisecond)
			x.now = time.Now()
			x.closeIdle()
			return nil
		}))
		b.s.mu.RLock()
		require.Empty(t, b.s.world.pipelines)
		require.Empty(t, b.s.world.byKey)
		require.Empty(t, b.s.world.byOutside)
		b.s.mu.RUnlock()
		if restart {
			b.restart()
			h.b, h.reg.Holdings = b, []api.Holding{{ID: build}}
			h.register()
		}
		id := int64(20)
		if restart {
			id++
		}
		c, _ := h.one(l, id, "deploy", "two", deps(11))
		require.Equal(t, []snapshot.ID{build}, inputs(c))
		require.Equal(t, []string{"11"}, c.External.Contained)
		require.Equal(t, p.ID, onlyPipeline(t, b).ID)
	}
	got, err := b.user.Pipeline(t.Context(), p.ID)
	require.NoError(t, err)
	require.Len(t, got.Jobs, 3)
	require.Equal(t, api.StatusSuccess, got.Status)
}

// What can't be done is said, and what must not leave a host is not kept at all.
func TestGitLabNeverUpload(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	_, build := h.one(l, 11, "build", "one", deps())
	l.add(12, "secret", "two", deps(11), variables("ROOST_NEVER_UPLOAD", "*.pem"))
	c := h.takes()
	require.Equal(t, "never", c.Job.Workspace.Commit)
	require.Len(t, c.External.Notes, 1)
	h.begin(c)
	_, err := h.end(c, api.Finish{Status: api.StatusSuccess, Code: api.SealNever})
	require.NoError(t, err)
	c, _ = h.one(l, 13, "after", "three", deps(12))
	require.Equal(t, []snapshot.ID{build}, inputs(c))
	require.Equal(t, []string{"11"}, c.External.Contained, "what it made is not in there")
}

// People find the job in GitLab again.
func TestGitLabOrigin(t *testing.T) {
	l := newLab(t)
	b := newLabBench(t, l)
	h := b.newLabHost(l, "host-a", 1)
	h.one(l, 11, "build", "one", func(p map[string]any) {
		p["job_info"].(map[string]any)["project_full_path"] = `group/"><img src=x>/../demo`
	})
	p := onlyPipeline(t, b)
	o := b.job(p, "build").Origin
	require.Equal(t, api.SystemGitLab, o.System)
	require.Equal(t, int64(11), o.ID)
	require.True(t, strings.HasPrefix(o.Web, l.http.URL+"/"), o.Web)
	require.NotContains(t, o.Web, "<")
	require.Contains(t, o.Pool, "linux of ")
	hosts, err := b.user.Hosts(t.Context())
	require.NoError(t, err)
	require.Equal(t, o.Pool, hosts[0].Pool)
	_, page := b.try(http.MethodGet, "/pipelines/1", userToken)
	require.Contains(t, page, "gitlab 11</a>")
	require.NotContains(t, page, "<img")
}
