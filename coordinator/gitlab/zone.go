package gitlab

import (
	"slices"
	"strconv"
	"strings"
)

// zone is the trust domain of the job in its project. What can't be told apart is
// trusted less: a merge request whose source is not known counts as a fork's.
func (p *payload) zone() string {
	if iid, ok := p.mergeRequest(); ok {
		source, own := p.sourceProject(), p.first("CI_PROJECT_ID")
		if p.JobInfo.ProjectID > 0 {
			own = strconv.FormatInt(p.JobInfo.ProjectID, 10)
		}
		if source == "" || source != own {
			if iid == 0 {
				// Nobody says which: its pipeline shares with nobody.
				return zoneFork + "0-" + strconv.FormatInt(max(p.JobInfo.PipelineID, 0), 10)
			}
			return zoneFork + strconv.FormatInt(iid, 10)
		}
	}
	protected := p.agreed("CI_COMMIT_REF_PROTECTED") == "true"
	if p.GitInfo.Protected != nil {
		protected = *p.GitInfo.Protected
	}
	if protected {
		return ZoneProtected
	}
	return ZoneBranch
}

// agreed gives the value of a variable if all its entries have the same.
func (p *payload) agreed(key string) string {
	value := p.first(key)
	for _, v := range p.Variables {
		if v.Key == key && v.Value != value {
			return ""
		}
	}
	return value
}

var (
	// beforeRunner are the server's variables between those of a merge request and the runner's.
	beforeRunner = []string{"CI_OPEN_MERGE_REQUESTS", "CI_GITLAB_FIPS_MODE", "CI_KUBERNETES_ACTIVE", "CI_DEPLOY_FREEZE"}
	// freeText are server's variables of a merge request with text of its author's, besides
	// those of the commit.
	freeText = []string{
		"CI_MERGE_REQUEST_TITLE", "CI_MERGE_REQUEST_DESCRIPTION", "CI_MERGE_REQUEST_LABELS",
		"CI_MERGE_REQUEST_MILESTONE", "CI_MERGE_REQUEST_ASSIGNEES", "CI_MERGE_REQUEST_TARGET_BRANCH_NAME",
	}
)

// sourceProject is the project that a merge request comes from, if it is surely the server that
// says so. It says nothing once a fork was deleted, and then the first entry may be the job's own.
// The server's stands between the commit's variables and the runner's, the job's stand behind
// the runner's; but what a text of the server's refers to, such as a title with $NAME in it,
// GitLab moves to before that text.
func (p *payload) sourceProject() string {
	const key, runner = "CI_MERGE_REQUEST_SOURCE_PROJECT_ID", "CI_RUNNER_ID"
	find := func(key string) int {
		return slices.IndexFunc(p.Variables, func(v variable) bool { return v.Key == key })
	}
	from, to := find(key), find(runner)
	if from < 0 || to < from {
		return ""
	}
	for i, v := range p.Variables[from:] {
		ofRequest := strings.HasPrefix(v.Key, "CI_MERGE_REQUEST_")
		switch {
		case strings.HasPrefix(v.Key, "CI_COMMIT_"), slices.Contains(freeText, v.Key):
			return ""
		case from+i < to && !ofRequest && !slices.Contains(beforeRunner, v.Key):
			return ""
		}
	}
	return p.agreed(key)
}

// mergeRequest gives the number of the merge request that the job runs for.
func (p *payload) mergeRequest() (int64, bool) {
	if rest, ok := strings.CutPrefix(p.GitInfo.Ref, "refs/merge-requests/"); ok {
		iid, _, _ := strings.Cut(rest, "/")
		return number(iid), true
	}
	if p.first("CI_PIPELINE_SOURCE") == "merge_request_event" {
		return number(p.first("CI_MERGE_REQUEST_IID")), true
	}
	return 0, false
}

// off says why a job must be left as it is.
func (p *payload) off() string {
	if p.Policy != nil && p.Policy.Job {
		return "it comes from a security policy"
	}
	if v, ok := p.last("GIT_STRATEGY"); ok && v != "" && v != "fetch" {
		return "its GIT_STRATEGY is " + OneLine(v, 40)
	}
	if v, ok := p.last("GIT_CLONE_PATH"); ok && v != "" {
		return "it sets GIT_CLONE_PATH"
	}
	if v, ok := p.last("GIT_STRATEGY"); p.AllowGitFetch != nil && !*p.AllowGitFetch && (!ok || v == "") {
		return "its project's git strategy is clone"
	}
	return ""
}
