package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
)

// slug names a project in a path: readable, and different for different projects.
func slug(project string) string {
	var b strings.Builder
	for _, c := range strings.ToLower(project) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			b.WriteRune(c)
		case !strings.HasSuffix(b.String(), "-") && b.Len() > 0:
			b.WriteByte('-')
		}
	}
	s := strings.Trim(b.String(), "-")
	if len(s) > 40 {
		s = strings.Trim(s[len(s)-40:], "-")
	}
	sum := sha256.Sum256([]byte(project))
	return strings.Trim(s+"-"+hex.EncodeToString(sum[:4]), "-")
}

// environment is what a job gets: who it is, then the variables of the file, expanded.
// GITLAB_CI is not set: what asks for it would find GitLab's interfaces missing.
func (a *Agent) environment(c *api.Claim, ws *api.Workspace, dir string) map[string]string {
	j := &c.Job
	name := path.Base(filepath.ToSlash(c.Project))
	env := map[string]string{
		"CI":               "true",
		"CI_PROJECT_DIR":   dir,
		"CI_PROJECT_NAME":  strings.TrimSuffix(name, ".git"),
		"CI_JOB_NAME":      j.Name,
		"CI_JOB_STAGE":     j.Stage,
		"CI_JOB_ID":        string(c.Attempt),
		"CI_PIPELINE_ID":   strconv.FormatInt(c.PipelineNumber, 10),
		"CI_PIPELINE_IID":  strconv.FormatInt(c.PipelineNumber, 10),
		"CI_NODE_TOTAL":    "1",
		"ROOST":            "true",
		"ROOST_HOST":       a.o.Name,
		"ROOST_PROJECT":    c.Project,
		"ROOST_ATTEMPT":    strconv.Itoa(c.Number),
		"ROOST_ATTEMPT_ID": string(c.Attempt),

		"ROOST_PIPELINE_ID":      c.Pipeline,
		"ROOST_WORKSPACE_STATE":  ws.State,
		"ROOST_WORKSPACE_ORIGIN": ws.Origin,
	}
	if j.Index > 0 {
		env["CI_NODE_INDEX"], env["CI_NODE_TOTAL"] = strconv.Itoa(j.Index), strconv.Itoa(j.Total)
		env["ROOST_INDEX"], env["ROOST_TOTAL"] = strconv.Itoa(j.Index), strconv.Itoa(j.Total)
	}
	if c.Source != nil {
		if c.Source.Commit != "" {
			env["CI_COMMIT_SHA"] = c.Source.Commit
			env["CI_COMMIT_SHORT_SHA"] = c.Source.Commit[:min(8, len(c.Source.Commit))]
		}
		if c.Source.Ref != "" {
			env["CI_COMMIT_REF_NAME"] = c.Source.Ref
		}
	}
	expand(env, j.Variables)
	return env
}
