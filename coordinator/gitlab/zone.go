package gitlab

import (
	"strconv"
	"strings"
)

// zone is the trust domain of the job in its project. What can't be told apart is
// trusted less: a merge request whose source is not known counts as a fork's.
func (p *payload) zone() string {
	if iid, ok := p.mergeRequest(); ok {
		source, own := p.first("CI_MERGE_REQUEST_SOURCE_PROJECT_ID"), p.first("CI_PROJECT_ID")
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
	protected := p.first("CI_COMMIT_REF_PROTECTED") == "true"
	if p.GitInfo.Protected != nil {
		protected = *p.GitInfo.Protected
	}
	if protected {
		return ZoneProtected
	}
	return ZoneBranch
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
		return "its GIT_STRATEGY is " + tidy(v, 40)
	}
	if v, ok := p.last("GIT_CLONE_PATH"); ok && v != "" {
		return "it sets GIT_CLONE_PATH"
	}
	if v, ok := p.last("GIT_STRATEGY"); p.AllowGitFetch != nil && !*p.AllowGitFetch && (!ok || v == "") {
		return "its project's git strategy is clone"
	}
	return ""
}
