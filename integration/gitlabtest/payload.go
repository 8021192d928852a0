package gitlabtest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// payloadLocked is the job as a runner gets it (section 2).
func (j *job) payloadLocked(g *GitLab) map[string]any {
	p := j.pipeline.project
	runner := j.runner
	if runner == nil {
		runner = &Runner{}
	}
	m := map[string]any{
		"id": j.id, "token": j.token, "allow_git_fetch": !j.def.NoFetch,
		"job_info":    j.jobInfoLocked(g),
		"git_info":    j.gitInfo(),
		"runner_info": map[string]any{"timeout": int(j.timeout(runner).Seconds()), "runner_session_url": nil},
		"inputs":      []any{}, "variables": j.variablesLocked(g),
		"steps": j.steps(), "image": nil, "services": services(j.def.Services),
		"artifacts": j.def.Artifacts, "cache": j.cache(), "credentials": []any{},
		"dependencies": j.dependenciesLocked(g),
		"features": map[string]any{
			"trace_sections": true, "token_mask_prefixes": []string{"glpat-"},
			"failure_reasons": failureReasons,
		},
		"hooks": j.hooks(), "run": nil, "secrets": map[string]any{},
	}
	if j.def.Image != "" {
		m["image"] = map[string]any{"name": j.def.Image, "entrypoint": nil, "ports": []any{}, "executor_opts": map[string]any{}, "pull_policy": nil}
	}
	if j.def.Policy != "" {
		m["policy_options"] = map[string]any{"execution_policy_job": true, "policy_name": j.def.Policy}
	}
	if g.o.OldPayload {
		m["job_info"] = map[string]any{
			"id": j.id, "name": j.name, "stage": j.def.Stage, "project_id": p.ID, "project_name": nameOf(p.Path),
		}
		delete(m["git_info"].(map[string]any), "protected")
	}
	if j.def.Edit == nil {
		return m
	}
	plain := map[string]any{} // as JSON has it, so that an edit meets no types of ours
	b, err := json.Marshal(m)
	if err == nil {
		err = json.Unmarshal(b, &plain)
	}
	if err != nil {
		panic(err)
	}
	j.def.Edit(plain)
	return plain
}

// failureReasons are those that a server lists in features.failure_reasons.
var failureReasons = []string{
	"unknown_failure", "script_failure", "api_failure", "stuck_or_timeout_failure", "runner_system_failure",
	"job_execution_timeout", "runner_unsupported", "stale_schedule", "archived_failure", "data_integrity_failure",
	"image_pull_failure", "runner_interrupted",
}

func (j *job) jobInfoLocked(g *GitLab) map[string]any {
	p := j.pipeline.project
	return map[string]any{
		"id": j.id, "name": j.name, "stage": j.def.Stage, "pipeline_id": j.pipeline.ID,
		"project_id": p.ID, "project_name": nameOf(p.Path), "project_full_path": p.Path,
		"namespace_id": 7, "root_namespace_id": 7, "organization_id": 1,
		"instance_id": "1", "instance_uuid": "11111111-2222-3333-4444-555555555555",
		"user_id": max(1, j.pipeline.def.User), "scoped_user_id": nil,
		"time_in_queue_seconds": g.o.Now().Sub(j.queued).Seconds(), "project_jobs_running_on_instance_runners_count": "+Inf",
		"queue_size": g.pendingLocked(), "queue_depth": 1,
	}
}

func (g *GitLab) pendingLocked() int {
	n := 0
	for _, j := range g.jobs {
		if j.status == Pending {
			n++
		}
	}
	return n
}

func nameOf(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

func (j *job) gitInfo() map[string]any {
	pl, p := j.pipeline, j.pipeline.project
	ref, kind := pl.def.Ref, "branch"
	specs := []string{fmt.Sprintf("+refs/pipelines/%d:refs/pipelines/%d", pl.ID, pl.ID)}
	switch {
	case pl.def.MR != nil:
		ref = fmt.Sprintf("refs/merge-requests/%d/head", pl.def.MR.IID)
	case pl.def.Tag:
		kind = "tag"
		specs = append(specs, fmt.Sprintf("+refs/tags/%s:refs/tags/%s", ref, ref))
	default:
		specs = append(specs, fmt.Sprintf("+refs/heads/%s:refs/remotes/origin/%s", ref, ref))
	}
	depth := p.Depth
	if depth == 0 {
		depth = 20
	}
	return map[string]any{
		"repo_url": p.repoURL(j.token), "repo_object_format": "sha1", "ref": ref, "sha": pl.sha,
		"before_sha": strings.Repeat("0", 40), "ref_type": kind, "refspecs": specs, "depth": max(0, depth),
		"protected": pl.def.Protected,
	}
}

func (j *job) steps() []map[string]any {
	step := func(name, when string, script []string, allow bool) map[string]any {
		return map[string]any{
			"name": name, "script": script, "timeout": int(j.timeout(&Runner{}).Seconds()), "when": when, "allow_failure": allow,
		}
	}
	s := []map[string]any{step("script", "on_success", j.def.Script, false)}
	if len(j.def.AfterScript) > 0 {
		s = append(s, step("after_script", "always", j.def.AfterScript, true))
	}
	return s
}

func services(names []string) []map[string]any {
	s := []map[string]any{}
	for _, n := range names {
		s = append(s, map[string]any{"name": n, "alias": nil, "command": nil, "entrypoint": nil, "ports": []any{}, "variables": []any{}})
	}
	return s
}

func (j *job) hooks() []map[string]any {
	h := []map[string]any{}
	for name, script := range j.def.Hooks {
		h = append(h, map[string]any{"name": name, "script": script})
	}
	return h
}

// cache is with the key's suffix that keeps protected refs apart.
func (j *job) cache() []map[string]any {
	c := []map[string]any{}
	suffix := "-non_protected"
	if j.pipeline.def.Protected {
		suffix = "-protected"
	}
	for _, d := range j.def.Cache {
		policy := d.Policy
		if policy == "" {
			policy = "pull-push"
		}
		c = append(c, map[string]any{
			"key": d.Key + suffix, "untracked": false, "policy": policy, "paths": d.Paths, "when": "on_success", "fallback_keys": []any{},
		})
	}
	return c
}

// dependenciesLocked are the jobs whose artifacts may be fetched, also those that have none.
func (j *job) dependenciesLocked(g *GitLab) []map[string]any {
	list := []map[string]any{}
	before := j.pipeline.beforeLocked(j)
	for _, b := range before {
		if b.status == Skipped || b.status == ManualJob {
			continue
		}
		if j.def.Needs != nil {
			i := slices.IndexFunc(j.def.Needs, func(n Need) bool { return n.Job == b.name || n.Job == b.def.Name })
			if j.def.Needs[i].NoArtifacts {
				continue
			}
		}
		if j.def.Dependencies != nil && !slices.Contains(j.def.Dependencies, b.def.Name) && !slices.Contains(j.def.Dependencies, b.name) {
			continue
		}
		d := map[string]any{"id": b.id, "name": b.name, "token": b.token}
		if g.o.RunningToken {
			d["token"] = j.token
		}
		for _, a := range b.artifacts {
			if a.kind == "archive" {
				d["artifacts_file"] = map[string]any{"filename": a.name, "size": a.size}
			}
		}
		list = append(list, d)
	}
	return list
}
