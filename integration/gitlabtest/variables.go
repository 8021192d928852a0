package gitlabtest

import (
	"fmt"
	"net/url"
	"strconv"
)

// variablesLocked are a job's variables in the server's order: what belongs to the job
// and its pipeline, what is known beforehand, the YAML file's, the project's, the
// trigger's. Whatever a user set comes later than the server's own of that name, and wins.
func (j *job) variablesLocked(g *GitLab) []Variable {
	var v []Variable
	pub := func(kv ...string) {
		for i := 0; i < len(kv); i += 2 {
			v = append(v, Variable{Key: kv[i], Value: kv[i+1], Public: true})
		}
	}
	secret := func(k, s string) { v = append(v, Variable{Key: k, Value: s, Masked: true}) }
	pl, p := j.pipeline, j.pipeline.project
	id := func(n int64) string { return strconv.FormatInt(n, 10) }
	web := g.url + "/" + p.Path
	pub("CI_PIPELINE_ID", id(pl.ID), "CI_PIPELINE_URL", web+"/-/pipelines/"+id(pl.ID),
		"CI_JOB_ID", id(j.id), "CI_JOB_URL", web+"/-/jobs/"+id(j.id))
	secret("CI_JOB_TOKEN", j.token)
	pub("CI_JOB_STARTED_AT", g.o.Now().UTC().Format("2006-01-02T15:04:05Z"), "CI_REGISTRY_USER", "gitlab-ci-token")
	secret("CI_REGISTRY_PASSWORD", j.token)
	secret("CI_REPOSITORY_URL", p.repoURL(j.token))
	pub("CI_JOB_NAME", j.name, "CI_JOB_STAGE", j.def.Stage)
	if j.def.When == Manual {
		pub("CI_JOB_MANUAL", "true")
	}
	total := max(1, j.node[1])
	if j.node[1] > 0 {
		pub("CI_NODE_INDEX", strconv.Itoa(j.node[0]))
	}
	pub("CI_NODE_TOTAL", strconv.Itoa(total))
	pub("CI", "true", "GITLAB_CI", "true", "CI_SERVER", "yes", "CI_SERVER_NAME", "GitLab",
		"CI_SERVER_URL", g.url, "CI_SERVER_HOST", hostOf(g.url), "CI_API_V4_URL", g.url+"/api/v4", "CI_SERVER_VERSION", "19.4.0")
	pub("CI_PROJECT_ID", id(p.ID), "CI_PROJECT_NAME", nameOf(p.Path), "CI_PROJECT_PATH", p.Path,
		"CI_PROJECT_URL", web, "CI_DEFAULT_BRANCH", "main")
	j.refVariables(pub)
	if j.runner != nil {
		pub("CI_RUNNER_ID", id(j.runner.ID))
	}
	v = append(v, j.def.Variables...)
	pub("GITLAB_USER_ID", id(max(1, pl.def.User)), "GITLAB_USER_LOGIN", "test")
	v = append(v, p.Variables...)
	return append(v, pl.def.Variables...)
}

func (j *job) refVariables(pub func(kv ...string)) {
	pl := j.pipeline
	source := pl.def.Source
	name := pl.def.Ref
	from := pl.project
	if mr := pl.def.MR; mr != nil {
		if mr.Source != nil {
			from = mr.Source
		}
		name = mr.Branch
		if source == "" {
			source = "merge_request_event"
		}
	}
	if source == "" {
		source = "push"
	}
	pub("CI_PIPELINE_IID", fmt.Sprint(pl.IID), "CI_PIPELINE_SOURCE", source,
		"CI_COMMIT_SHA", pl.sha, "CI_COMMIT_SHORT_SHA", pl.sha[:8], "CI_COMMIT_REF_NAME", name)
	switch {
	case pl.def.Tag:
		pub("CI_COMMIT_TAG", name)
	case pl.def.MR == nil:
		pub("CI_COMMIT_BRANCH", name)
	}
	pub("CI_COMMIT_REF_PROTECTED", fmt.Sprint(pl.def.Protected))
	if mr := pl.def.MR; mr != nil {
		pub("CI_MERGE_REQUEST_ID", fmt.Sprint(50000+mr.IID), "CI_MERGE_REQUEST_IID", fmt.Sprint(mr.IID),
			"CI_MERGE_REQUEST_REF_PATH", fmt.Sprintf("refs/merge-requests/%d/head", mr.IID),
			"CI_MERGE_REQUEST_PROJECT_ID", fmt.Sprint(pl.project.ID), "CI_MERGE_REQUEST_PROJECT_PATH", pl.project.Path,
			"CI_MERGE_REQUEST_TARGET_BRANCH_NAME", "main")
		if !mr.Gone {
			pub("CI_MERGE_REQUEST_SOURCE_PROJECT_ID", fmt.Sprint(from.ID), "CI_MERGE_REQUEST_SOURCE_PROJECT_PATH", from.Path,
				"CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", mr.Branch)
		}
	}
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
