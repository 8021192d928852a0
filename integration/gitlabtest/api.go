package gitlabtest

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// APIToken makes a token that reads pipelines.
func (g *GitLab) APIToken() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := "glpat-" + g.secretLocked()
	g.apiTokens[t] = true
	return t
}

// pipelineOf finds the pipeline of a request for an API token, and answers if it can't.
func (g *GitLab) pipelineOf(w http.ResponseWriter, r *http.Request) *Pipeline {
	token := r.Header.Get("Private-Token")
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		token = bearer
	}
	id, _ := strconv.ParseInt(r.PathValue("pipeline"), 10, 64)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.apiTokens[token] {
		fail(w, http.StatusUnauthorized, "401 Unauthorized")
		return nil
	}
	pl := g.pipelines[id]
	name, _ := url.PathUnescape(r.PathValue("project"))
	if pl == nil || name != pl.project.Path && name != strconv.FormatInt(pl.project.ID, 10) {
		fail(w, http.StatusNotFound, "404 Not found")
		return nil
	}
	return pl
}

func (g *GitLab) servePipeline(w http.ResponseWriter, r *http.Request) {
	pl := g.pipelineOf(w, r)
	if pl == nil {
		return
	}
	reply(w, http.StatusOK, map[string]any{
		"id": pl.ID, "iid": pl.IID, "project_id": pl.project.ID, "status": pl.Status(), "ref": pl.def.Ref, "sha": pl.sha,
		"source": cmp.Or(pl.def.Source, "push"),
	})
}

// servePipelineJobs lists a pipeline's jobs, the newest first, in pages. With
// include_retried also those that were tried again. needs is what the job waits for by name.
func (g *GitLab) servePipelineJobs(w http.ResponseWriter, r *http.Request) {
	pl := g.pipelineOf(w, r)
	if pl == nil {
		return
	}
	q := r.URL.Query()
	page, _ := strconv.Atoi(q.Get("page"))
	per, _ := strconv.Atoi(q.Get("per_page"))
	page, per = max(1, page), min(100, cmp.Or(max(0, per), 20))
	list := []map[string]any{}
	g.mu.Lock()
	for _, j := range slices.Backward(pl.jobs) {
		if j.retried && q.Get("include_retried") != "true" {
			continue
		}
		needs := []string{}
		for _, n := range j.def.Needs {
			needs = append(needs, n.Job)
		}
		list = append(list, map[string]any{
			"id": j.id, "name": j.name, "stage": j.def.Stage, "status": j.status, "allow_failure": j.def.AllowFailure, "retried": j.retried,
			"ref": pl.def.Ref, "pipeline": map[string]any{"id": pl.ID, "project_id": pl.project.ID, "sha": pl.sha}, "needs": needs,
		})
	}
	g.mu.Unlock()
	w.Header().Set("X-Total", strconv.Itoa(len(list)))
	w.Header().Set("X-Next-Page", "")
	from, to := min(len(list), (page-1)*per), min(len(list), page*per)
	if to < len(list) {
		w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
	}
	reply(w, http.StatusOK, list[from:to])
}
