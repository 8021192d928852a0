package gitlab

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/roost-ci/roost/coordinator/pipeline"
)

// Settings are what a job's ROOST_* variables say. The zero Settings say nothing.
type Settings struct {
	Mode        string // required, optional, off; "" for the pool's
	Durability  string // local, synced, durable; "" for the pool's
	Needs       []string
	HasNeeds    bool // also if Needs is empty: none
	Commit      string
	OnConflict  string
	Atomic      []string
	Caches      []string
	NeverUpload []string
	// Notes say in a sentence each what could not be followed.
	Notes []string
}

// Modes and durabilities that a job may ask for.
const (
	ModeOff = "off"

	DurabilityLocal   = "local"
	DurabilitySynced  = "synced"
	DurabilityDurable = "durable"
)

// Setting is one of the variables with which a job asks for something. The guide's
// table is made of these.
type Setting struct {
	Name    string
	Values  string
	Default string
	Effect  string

	read func(*Settings, string) error
}

// Variables are all of them, in the order of the guide.
func Variables() []Setting {
	return []Setting{
		{
			Name: "ROOST_WORKSPACE", Values: "`off`, `optional`, `required`", Default: "the host's `gitlab.mode`, else `optional`",
			Effect: "`off`: the job runs as on a stock runner. `optional`: it starts in its workspace, or fresh when that can't be had. " +
				"`required`: it fails as a system failure before its first command when it can't be had.",
			read: func(s *Settings, v string) error {
				return word(&s.Mode, v, ModeOff, pipeline.ModeOptional, pipeline.ModeRequired)
			},
		},
		{
			Name: "ROOST_NEEDS", Values: "names of jobs, separated by commas or spaces; empty: none", Default: "what GitLab says: `dependencies`, else the earlier stages",
			Effect: "the jobs whose workspaces it starts from. A name with spaces stands between commas.",
			read: func(s *Settings, v string) error {
				s.Needs, s.HasNeeds = names(v), true
				return nil
			},
		},
		{
			Name: "ROOST_DURABILITY", Values: "`local`, `synced`, `durable`", Default: "the host's `gitlab.durability`, else `local`",
			Effect: "what the job's success means for its workspace: sealed on its host, synced to that host's disk, or stored where the loss of the host does no harm. `durable` that can't be had fails the job.",
			read: func(s *Settings, v string) error {
				return word(&s.Durability, v, DurabilityLocal, DurabilitySynced, DurabilityDurable)
			},
		},
		{
			Name: "ROOST_COMMIT", Values: "`on_success`, `if-changed`, `never`", Default: "`on_success`",
			Effect: "whether the workspace is kept for the jobs after it.",
			read: func(s *Settings, v string) error {
				return word(&s.Commit, v, pipeline.CommitOnSuccess, pipeline.CommitIfChanged, pipeline.CommitNever)
			},
		},
		{
			Name: "ROOST_ON_CONFLICT", Values: "`error`, `order`", Default: "`error`",
			Effect: "what happens when parents changed the same file: `order`: the first one wins. `error`: a `required` job fails, any other one starts fresh.",
			read: func(s *Settings, v string) error {
				return word(&s.OnConflict, v, pipeline.ConflictError, pipeline.ConflictOrder)
			},
		},
		{
			Name: "ROOST_ATOMIC", Values: "globs, separated by commas or spaces", Default: "none",
			Effect: "trees that are taken whole from one parent, such as a build directory with its own database.",
			read:   func(s *Settings, v string) (err error) { s.Atomic, err = globs(v); return err },
		},
		{
			Name: "ROOST_CACHES", Values: "globs, separated by commas or spaces", Default: "none",
			Effect: "stores of files named by their content, on which parents never conflict.",
			read:   func(s *Settings, v string) (err error) { s.Caches, err = globs(v); return err },
		},
		{
			Name: "ROOST_NEVER_UPLOAD", Values: "globs, separated by commas or spaces", Default: "none",
			Effect: "files that must never leave their host. This version can't keep single files there, so nothing of the job's workspace is kept; the jobs after it start from what it started from.",
			read:   func(s *Settings, v string) (err error) { s.NeverUpload, err = globs(v); return err },
		},
	}
}

// settings reads the variables, of several the last: that is the one that the job
// itself sees.
func (p *payload) settings() Settings {
	var s Settings
	for _, v := range Variables() {
		text, ok := p.last(v.Name)
		if !ok {
			continue
		}
		if err := v.read(&s, strings.TrimSpace(text)); err != nil {
			s.Notes = append(s.Notes, fmt.Sprintf("%s is not followed: %v", v.Name, err))
		}
	}
	for _, v := range p.Variables {
		if !strings.HasPrefix(v.Key, "ROOST_") || len(s.Notes) >= maxNotes {
			continue
		}
		if slices.ContainsFunc(Variables(), func(o Setting) bool { return o.Name == v.Key }) {
			continue
		}
		if note := OneLine(v.Key, 60) + " is not a variable of Roost"; !slices.Contains(s.Notes, note) {
			s.Notes = append(s.Notes, note)
		}
	}
	return s
}

const (
	maxNotes = 16
	maxWords = 256
)

// word takes v if it is one of words; an empty one says nothing.
func word(to *string, v string, words ...string) error {
	if v == "" {
		return nil
	}
	if !slices.Contains(words, v) {
		return fmt.Errorf("%q is none of %s", OneLine(v, 40), strings.Join(words, ", "))
	}
	*to = v
	return nil
}

// names takes a list apart: at commas if there are any, so that a name may have
// spaces, else at spaces.
func names(v string) []string {
	split := strings.Fields
	if strings.Contains(v, ",") {
		split = func(s string) []string { return strings.Split(s, ",") }
	}
	out := []string{}
	for _, n := range split(v) {
		if n = OneLine(n, maxText); n != "" && len(out) < maxWords && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// globs reads a list of globs of paths in the workspace. One bad glob spoils them all:
// half of a rule is none.
func globs(v string) ([]string, error) {
	out := names(v)
	for _, g := range out {
		if !doublestar.ValidatePattern(g) || path.Clean(g) != g || strings.HasPrefix(g, "/") || strings.HasPrefix(g, "~") ||
			g == "." || g == ".." || strings.HasPrefix(g, "../") {
			return nil, fmt.Errorf("%q is no glob of paths in the workspace, such as build/**", OneLine(g, 60))
		}
	}
	return out, nil
}
