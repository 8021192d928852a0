package gitlabtest

import (
	"fmt"
	"net/http"
)

// serveWhose is GET /job: the job whose token asks, as it is shown to everybody who may see it.
// What a runner is told besides, such as whether the ref is protected, is not in it. A token is good
// while its job runs.
func (g *GitLab) serveWhose(w http.ResponseWriter, r *http.Request) {
	token := r.Header.Get("Job-Token")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advanceLocked()
	var found *job
	for _, j := range g.jobs {
		if token != "" && j.token == token {
			found = j
		}
	}
	old := found != nil && !found.expires.IsZero() && g.o.Now().After(found.expires) && !g.o.Breaks(TokenExpiry)
	if found == nil || old || found.status != Running && found.status != Canceling {
		fail(w, http.StatusUnauthorized, "401 Unauthorized")
		return
	}
	reply(w, http.StatusOK, found.shownLocked(g))
}

// shownLocked is a job as the API shows it.
func (j *job) shownLocked(g *GitLab) map[string]any {
	pl, p := j.pipeline, j.pipeline.project
	ref := j.gitInfo()["ref"]
	web := g.url + "/" + p.Path
	return map[string]any{
		"id": j.id, "status": j.status, "stage": j.def.Stage, "name": j.name, "ref": ref, "tag": pl.def.Tag,
		"coverage": nil, "allow_failure": j.def.AllowFailure, "created_at": j.queued, "started_at": j.started,
		"finished_at": nil, "erased_at": nil, "duration": g.o.Now().Sub(j.started).Seconds(), "queued_duration": j.started.Sub(j.queued).Seconds(),
		"user":   map[string]any{"id": max(1, pl.def.User), "username": "test"},
		"commit": map[string]any{"id": pl.sha, "short_id": pl.sha[:8]},
		"pipeline": map[string]any{
			"id": pl.ID, "iid": pl.IID, "project_id": p.ID, "sha": pl.sha, "ref": ref, "status": "running",
			"web_url": fmt.Sprintf("%s/-/pipelines/%d", web, pl.ID),
		},
		"web_url": fmt.Sprintf("%s/-/jobs/%d", web, j.id),
		"project": map[string]any{"ci_job_token_scope_enabled": false}, "artifacts": []any{}, "artifacts_expire_at": nil,
		"runner": j.shownRunner(), "runner_manager": map[string]any{"system_id": j.manager}, "archived": false, "tag_list": j.def.Tags,
	}
}

func (j *job) shownRunner() any {
	if j.runner == nil {
		return nil
	}
	return map[string]any{"id": j.runner.ID, "active": true, "paused": false, "is_shared": false, "runner_type": "project_type", "online": true, "status": "online"}
}
