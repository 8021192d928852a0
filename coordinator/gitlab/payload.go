package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Job is what a payload says that the coordinator has to know. Which project, pipeline
// and zone it belongs to comes from what the server says alone; a variable of that
// name only where an older server says nothing else, and of several the first: the
// server's own stand before the user's. For the zone that is not enough: see there.
type Job struct {
	Instance   string // host, port and path of the server
	ProjectID  int64
	Path       string // of the project, "" if unknown
	PipelineID int64
	ID         int64
	Token      Secret
	// Name is the workspace's directory: 26 characters of [0-9a-z] made of the instance
	// and the project's id.
	Name    string
	JobName string
	Stage   string
	Ref     string
	SHA     string
	Zone    string
	Timeout time.Duration
	// Dependencies are the ids of jobs whose artifacts it may fetch; nil if it does
	// not say.
	Dependencies []int64
	Settings     Settings
	// TimesFlag is the job's FF_TIMESTAMPS, "" if it does not say.
	TimesFlag string
	// Off says why it must not get a workspace, "" if it may.
	Off string
}

// Zones of trust. A merge request from a fork has one of its own.
const (
	ZoneProtected = "protected"
	ZoneBranch    = "branch"
	zoneFork      = "fork-"
)

// ErrPayload says that an answer is not a job.
var ErrPayload = errors.New("not a job")

// defaultTimeout is what a runner takes if the payload names none.
const defaultTimeout = 2 * time.Hour

// payload is the part of it that is read. Everything may be missing or wrong.
type payload struct {
	ID            int64  `json:"id"`
	Token         string `json:"token"`
	AllowGitFetch *bool  `json:"allow_git_fetch"`
	JobInfo       struct {
		Name       string `json:"name"`
		Stage      string `json:"stage"`
		ProjectID  int64  `json:"project_id"`
		Path       string `json:"project_full_path"`
		PipelineID int64  `json:"pipeline_id"`
	} `json:"job_info"`
	GitInfo struct {
		Ref       string `json:"ref"`
		SHA       string `json:"sha"`
		Protected *bool  `json:"protected"`
	} `json:"git_info"`
	RunnerInfo struct {
		Timeout int64 `json:"timeout"`
	} `json:"runner_info"`
	Variables    []variable     `json:"variables"`
	Dependencies *[]dependency  `json:"dependencies"`
	Policy       *policyOptions `json:"policy_options"`
}

type variable struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type dependency struct {
	ID int64 `json:"id"`
}

type policyOptions struct {
	Job bool `json:"execution_policy_job"`
}

// first gives the first entry of a variable: the server's own.
func (p *payload) first(key string) string {
	for _, v := range p.Variables {
		if v.Key == key {
			return v.Value
		}
	}
	return ""
}

// last gives the entry of a variable that counts for the job.
func (p *payload) last(key string) (string, bool) {
	for i := len(p.Variables) - 1; i >= 0; i-- {
		if p.Variables[i].Key == key {
			return p.Variables[i].Value, true
		}
	}
	return "", false
}

// Parse reads a job that instance gave. The error wraps ErrPayload if it has no id or
// no token; Name is good even then.
func Parse(instance string, body []byte) (*Job, error) {
	var p payload
	err := json.Unmarshal(body, &p)
	var odd *json.UnmarshalTypeError
	if errors.As(err, &odd) {
		err = nil // a field that is not what it should be counts as missing
	}
	j := p.job(instance)
	switch {
	case err != nil:
		return j, fmt.Errorf("%w: %w", ErrPayload, err)
	case j.ID <= 0 || j.Token == "":
		return j, fmt.Errorf("%w: it has no id or no token", ErrPayload)
	case j.ProjectID <= 0:
		return j, fmt.Errorf("%w: job %d names no project", ErrPayload, j.ID)
	}
	return j, nil
}

func (p *payload) job(instance string) *Job {
	j := &Job{
		Instance: instance, ID: p.ID, Token: Secret(p.Token),
		ProjectID: p.JobInfo.ProjectID, PipelineID: p.JobInfo.PipelineID,
		Path:    OneLine(p.JobInfo.Path, maxPath),
		JobName: OneLine(p.JobInfo.Name, maxText), Stage: OneLine(p.JobInfo.Stage, maxText),
		Ref: OneLine(p.GitInfo.Ref, maxText), SHA: OneLine(p.GitInfo.SHA, 64),
		Timeout: defaultTimeout,
	}
	if j.ProjectID <= 0 {
		j.ProjectID = number(p.first("CI_PROJECT_ID"))
	}
	if j.PipelineID <= 0 {
		j.PipelineID = number(p.first("CI_PIPELINE_ID"))
	}
	if j.PipelineID <= 0 {
		// A job whose pipeline nobody knows is a pipeline of its own.
		j.PipelineID = -max(p.ID, 0)
	}
	if j.Path == "" {
		j.Path = OneLine(p.first("CI_PROJECT_PATH"), maxPath)
	}
	if j.JobName == "" {
		j.JobName = "job " + strconv.FormatInt(p.ID, 10)
	}
	if s := p.RunnerInfo.Timeout; s > 0 && s < int64(maxTimeout/time.Second) {
		j.Timeout = time.Duration(s) * time.Second
	}
	if p.Dependencies != nil {
		j.Dependencies = []int64{}
		for _, d := range *p.Dependencies {
			j.Dependencies = append(j.Dependencies, d.ID)
		}
	}
	j.Name = Dir(instance, j.ProjectID)
	j.Zone = p.zone()
	j.Settings = p.settings()
	j.TimesFlag, _ = p.last("FF_TIMESTAMPS")
	j.Off = p.off()
	return j
}

const (
	maxText    = 255
	maxPath    = 160
	maxTimeout = 365 * 24 * time.Hour
)

// number reads a positive whole number, else 0.
func number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// OneLine makes one line of at most n bytes of a text from elsewhere, without what a
// terminal would take for a command.
func OneLine(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), n)], ""))
	return strings.TrimSpace(s)
}
