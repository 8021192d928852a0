package coordinator

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/gitlab"
	"github.com/roost-ci/roost/coordinator/pipeline"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/internal/gitlablog"
)

// projectOf names the project of a job. The id makes it safe against a path that is
// used again.
func projectOf(j *gitlab.Job) string {
	id := "#" + strconv.FormatInt(j.ProjectID, 10)
	name := j.Instance
	if j.Path != "" {
		name += "/" + j.Path
	}
	if room := maxProject - len(id); len(name) > room {
		name = strings.ToValidUTF8(name[:room], "")
	}
	return name + id
}

// defineOutside makes the definition of a job of what it says and what its pool says
// for it.
func (t *txn) defineOutside(from gitlab.Pool, g *gitlab.Job) *state.Def {
	pool := t.poolOf(from.Name)
	set := g.Settings
	mode := first(set.Mode, pool.Mode, pipeline.ModeOptional)
	e := &state.External{
		System: api.SystemGitLab, Pool: from.Name, URL: from.URL, Instance: g.Instance, ID: g.ID, Pipeline: g.PipelineID,
		Name: g.Name, Off: g.Off, Durability: first(set.Durability, pool.Durability, gitlab.DurabilityLocal),
		FetchBudgetMS: pool.FetchBudgetMS, Path: g.Path, ReceivedMS: t.ms(),
		Plain: !gitlablog.HasTimes(from.Runner, g.TimesFlag),
	}
	e.Web = webPage(from.URL, g)
	if e.Off == "" && platformOf(from.Runner) == "windows" {
		e.Off = "its runner is on Windows"
	}
	commit := first(set.Commit, pipeline.CommitOnSuccess)
	if len(set.NeverUpload) > 0 {
		commit = pipeline.CommitNever // whatever is kept may be uploaded
	}
	if mode == gitlab.ModeOff {
		mode, e.Off = pipeline.ModeOptional, "it says so"
		if set.Mode != gitlab.ModeOff {
			e.Off = "its host says so"
		}
	}
	return &state.Def{
		Spec: api.JobSpec{
			Name: g.JobName, Stage: g.Stage, TimeoutMS: g.Timeout.Milliseconds(),
			Workspace: api.WorkspaceSpec{
				Disabled: e.Off != "", Commit: commit, Mode: mode,
				OnConflict: first(set.OnConflict, pipeline.ConflictError), Atomic: set.Atomic, Caches: set.Caches,
			},
		},
		When: pipeline.OnSuccess, External: e,
	}
}

// webPage is the address of a job's page, "" if its project's path is not known.
func webPage(base string, g *gitlab.Job) string {
	u, err := url.Parse(base)
	if err != nil || g.Path == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return ""
	}
	return u.JoinPath(escapePath(g.Path), "-", "jobs", strconv.FormatInt(g.ID, 10)).String()
}

// escapePath makes each element of a path fit for an address.
func escapePath(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// poolOf finds what a host of a pool says for the jobs of it.
func (t *txn) poolOf(key string) api.Pool {
	for _, name := range slices.Sorted(maps.Keys(t.w.fleet)) {
		if p := t.w.fleet[name]; p.pool != nil && p.poolKey == key {
			return *p.pool
		}
	}
	return api.Pool{}
}

func platformOf(runner json.RawMessage) string {
	var v struct {
		Info struct {
			Platform string `json:"platform"`
		} `json:"info"`
	}
	if json.Unmarshal(runner, &v) != nil {
		return ""
	}
	return v.Info.Platform
}

func first(words ...string) string {
	for _, w := range words {
		if w != "" {
			return w
		}
	}
	return ""
}
