package runner

import (
	"os"
	"slices"
	"strconv"
	"strings"
)

// Job is a job's payload as a runner understands it (section 2). What it doesn't know
// is dropped.
type Job struct {
	ID            int64  `json:"id"`
	Token         string `json:"token"`
	AllowGitFetch bool   `json:"allow_git_fetch"`
	JobInfo       struct {
		Name      string `json:"name"`
		Stage     string `json:"stage"`
		ProjectID int64  `json:"project_id"`
	} `json:"job_info"`
	GitInfo struct {
		RepoURL  string   `json:"repo_url"`
		Ref      string   `json:"ref"`
		SHA      string   `json:"sha"`
		Refspecs []string `json:"refspecs"`
		Depth    int      `json:"depth"`
	} `json:"git_info"`
	RunnerInfo struct {
		Timeout int `json:"timeout"`
	} `json:"runner_info"`
	Variables    Variables    `json:"variables"`
	Steps        []Step       `json:"steps"`
	Image        Image        `json:"image"`
	Services     []Image      `json:"services"`
	Artifacts    []Artifact   `json:"artifacts"`
	Dependencies []Dependency `json:"dependencies"`
	Features     struct {
		FailureReasons []string `json:"failure_reasons"`
	} `json:"features"`
	Hooks []struct {
		Name   string   `json:"name"`
		Script []string `json:"script"`
	} `json:"hooks"`

	correlation string
}

// Step is a list of commands.
type Step struct {
	Name         string   `json:"name"`
	Script       []string `json:"script"`
	When         string   `json:"when"`
	AllowFailure bool     `json:"allow_failure"`
}

// Image is a container's.
type Image struct {
	Name  string `json:"name"`
	Alias string `json:"alias"`
}

// Artifact is what to upload.
type Artifact struct {
	Name      string   `json:"name"`
	Untracked bool     `json:"untracked"`
	Paths     []string `json:"paths"`
	Exclude   []string `json:"exclude"`
	When      string   `json:"when"`
	Type      string   `json:"artifact_type"`
	Format    string   `json:"artifact_format"`
	ExpireIn  string   `json:"expire_in"`
}

// Dependency is a job whose artifacts to download.
type Dependency struct {
	ID            int64  `json:"id"`
	Name          string `json:"name"`
	Token         string `json:"token"`
	ArtifactsFile struct {
		Filename string `json:"filename"`
	} `json:"artifacts_file"`
}

// Variable is one of a job's.
type Variable struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Public bool   `json:"public"`
	File   bool   `json:"file"`
	Masked bool   `json:"masked"`
	Raw    bool   `json:"raw"`
}

// Variables may have several of one key: the last one wins.
type Variables []Variable

func (v Variables) find(key string) (Variable, bool) {
	for _, e := range slices.Backward(v) {
		if e.Key == key {
			return e, true
		}
	}
	return Variable{}, false
}

// Get is the value of key, or "".
func (v Variables) Get(key string) string {
	e, _ := v.find(key)
	return e.Value
}

// Bool is the value of key as a flag.
func (v Variables) Bool(key string) bool {
	b, err := strconv.ParseBool(strings.ToLower(v.Get(key)))
	return err == nil && b
}

// int is the value of key, or another one when it is none.
func (v Variables) int(key string, otherwise int) int {
	n, err := strconv.Atoi(v.Get(key))
	if err != nil {
		return otherwise
	}
	return n
}

// expanded replaces $NAME in all that aren't raw, once, by what the others say. tmp is
// where file variables lie.
func (v Variables) expanded(c *Config, tmp string) Variables {
	get := func(key string) string {
		if key == "$" {
			return key
		}
		e, _ := v.find(key)
		if e.File {
			return tmp + "/" + key
		}
		return e.Value
	}
	out := make(Variables, 0, len(v))
	for _, e := range v {
		if !e.Raw || c.broken(RawVariables) {
			e.Value = os.Expand(e.Value, get)
		}
		out = append(out, e)
	}
	if c.broken(LastWins) {
		slices.Reverse(out)
	}
	return out
}
