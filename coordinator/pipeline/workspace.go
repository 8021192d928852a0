package pipeline

import (
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/roost-ci/roost/coordinator/api"
)

// inheritance says where the jobs come from whose workspace a job inherits.
type inheritance uint8

const (
	inheritWaits  inheritance = iota // needs if the job has that key, else the stages
	inheritNone                      // nobody
	inheritNeeds                     // needs
	inheritStages                    // all jobs of the stages listed before
	inheritListed                    // the jobs of workspace.from
)

// workspace is the key of that name, as it stands in the file. Jobs share it.
type workspace struct {
	spec      api.WorkspaceSpec // Mode is "" unless the file says it; Prefer is not filled
	inherit   inheritance
	inheritAt pos
	from      []reference
	prefer    []preference
}

// reference is the name of a job that stands in the file.
type reference struct {
	name string
	at   pos
}

type preference struct {
	glob, job string
	at        pos // of job
}

func newWorkspace() *workspace {
	return &workspace{spec: api.WorkspaceSpec{Commit: CommitOnSuccess, OnConflict: ConflictError}}
}

// readWorkspace reads false, true or a mapping.
func (p *parser) readWorkspace(v *value, where string) *workspace {
	if w, ok := p.workspaces[v]; ok {
		return w
	}
	w := newWorkspace()
	p.workspaces[v] = w
	if v.kind != dict {
		if v.kind != scalar || v.tag != "!!bool" {
			p.wrong(v, where, "false or a mapping")
			return w
		}
		if yes, _ := p.boolean(v, where); !yes {
			w.spec.Disabled = true
			w.spec.Commit = CommitNever
		}
		return w
	}
	for _, e := range p.mappingKeys(v, where, workspaceKeys, workspaceLater) {
		p.workspaceKey(w, e, where+": "+e.key)
	}
	return w
}

func (p *parser) workspaceKey(w *workspace, e entry, where string) {
	set := func(to *string, words ...string) {
		if word, ok := p.oneOf(e.val, where, words, nil); ok {
			*to = word
		}
	}
	switch e.key {
	case "inherit":
		p.readInherit(w, e.val, where)
	case "commit":
		set(&w.spec.Commit, CommitOnSuccess, CommitIfChanged, CommitNever)
	case "mode":
		set(&w.spec.Mode, ModeRequired, ModeOptional)
	case "on_conflict":
		set(&w.spec.OnConflict, ConflictError, ConflictOrder)
	case "prefer":
		p.readPrefer(w, e.val, where)
	case "atomic":
		w.spec.Atomic = p.globs(e.val, where)
	case "caches":
		w.spec.Caches = p.globs(e.val, where)
	}
}

// readInherit reads none, needs, stages or a list of jobs.
func (p *parser) readInherit(w *workspace, v *value, where string) {
	w.inheritAt = v.at
	words := map[string]inheritance{"none": inheritNone, "needs": inheritNeeds, "stages": inheritStages}
	if v.kind == list {
		w.inherit = inheritListed
		if len(v.items) == 0 {
			w.inherit = inheritNone
		}
		names, from := p.strs(v, where)
		seen := make(map[string]bool, len(names))
		for i, name := range names {
			if seen[name] {
				p.errorf(from[i].at, InheritForm, "%s: %s stands here twice", where, show(name))
				continue
			}
			seen[name] = true
			w.from = append(w.from, reference{name, from[i].at})
		}
		return
	}
	in, ok := words[v.text]
	if !v.isString() || !ok {
		cure := ""
		if v.isString() && v.text != "" {
			cure = "; for one job write [" + show(v.text) + "]"
		}
		p.errorf(v.at, InheritForm, "%s must be none, needs, stages or a list of jobs, not %s%s", where, v.what(), cure)
		return
	}
	w.inherit = in
}

// readPrefer reads a mapping of globs to jobs, or a list of such mappings. The
// order of the file is kept: the first glob that matches a path decides.
func (p *parser) readPrefer(w *workspace, v *value, where string) {
	each := []*value{v}
	if v.kind == list {
		each = v.items
	}
	for _, d := range each {
		if d.kind != dict {
			p.wrong(d, where, "a mapping of globs to jobs")
			continue
		}
		for _, e := range d.entries {
			if e.val.kind == null {
				p.emptyKey(d, e, where)
				continue
			}
			job, ok := p.str(e.val, where+": "+show(e.key))
			if ok && p.globOK(e.at, e.key, where) {
				w.prefer = append(w.prefer, preference{e.key, job, e.val.at})
			}
		}
	}
}

// globs reads a list of globs of paths in the workspace.
func (p *parser) globs(v *value, where string) []string {
	words, from := p.strs(v, where)
	good := words[:0]
	for i, g := range words {
		if p.globOK(from[i].at, g, where) {
			good = append(good, g)
		}
	}
	return good
}

// globOK reports a glob that could not match any path of a workspace.
func (p *parser) globOK(at pos, glob, where string) bool {
	switch {
	case !doublestar.ValidatePattern(glob):
		p.errorf(at, GlobInvalid, "%s: %s is no glob; close its brackets and braces", where, quote(glob))
	case strings.HasPrefix(glob, "/"), strings.HasPrefix(glob, "~"):
		p.errorf(at, GlobInvalid, "%s: %s must be relative to the workspace", where, quote(glob))
	case path.Clean(glob) != glob || glob == "." || glob == ".." || strings.HasPrefix(glob, "../"):
		p.errorf(at, GlobInvalid, "%s: %s must be a path without ., .., // and a / at its end; for all below a directory write dir/**", where, quote(glob))
	default:
		return true
	}
	return false
}
