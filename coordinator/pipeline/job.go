package pipeline

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roost-ci/roost/coordinator/api"
)

const (
	// maxJobs bounds the jobs of a graph, the instances of parallel counted.
	maxJobs = 2000
	// maxGraph bounds the bytes of text in all jobs of a graph, as they are stored
	// and sent: each job carries its own copy of what it shares in the file.
	maxGraph = 16 << 20
	// maxName and maxTags are GitLab's.
	maxName = 255
	maxTags = 50
	// maxParallel is GitLab's.
	maxParallel = 200
)

// job is one job of the file, before parallel is expanded.
type job struct {
	name      string
	at        pos
	isDefault bool // not a job but the key default

	spec  api.JobSpec // what all instances share
	stage int         // index of p.stages, -1 for an unknown one
	needs []need
	// hasNeeds is true also for needs: [].
	hasNeeds bool
	tags     []string
	allow    AllowFailure
	when     string
	retry    int
	total    int // of parallel, 0 without it
	ws       *workspace

	first int // of p.all: where its instances begin
}

// where is the subject of a sentence on a key of the job.
func (j *job) where(key string) string {
	if j.isDefault {
		return "default: " + key
	}
	return show(j.name) + " job: " + key
}

// count is how many jobs of the graph it becomes.
func (j *job) count() int { return max(j.total, 1) }

// readJob reads one entry of the top level as a job.
func (p *parser) readJob(e entry) {
	if !p.nameOK(e) {
		return
	}
	t := p.resolve(e.key, nil)
	j := &job{name: e.key, at: e.at, when: OnSuccess}
	own := make(map[string]*value)
	trigger := false
	for _, k := range t.val.entries {
		trigger = trigger || k.key == "trigger" || k.key == "run"
		if cure, ok := elsewhere[k.key]; ok {
			p.errorf(k.at, KeyUnknown, "%s job: unknown key %s; %s", show(j.name), k.key, cure)
		}
	}
	for _, k := range p.mappingKeys(t.val, show(e.key)+" job", jobKeys, jobLater) {
		own[k.key] = k.val
	}
	for key, v := range p.defaults {
		if own[key] == nil {
			own[key] = v
		}
	}
	for _, key := range slices.Sorted(maps.Keys(own)) {
		p.readKey(j, key, own[key])
	}
	j.stage = p.jobStage(j, own["stage"])
	if own["script"] == nil && !trigger {
		p.errorf(j.at, JobScript, "%s job: has no script; a job without one is a template, and its name begins with a dot", show(j.name))
	}
	j.spec.Variables = overlay(p.vars, j.spec.Variables, p.opts.Variables)
	if j.ws == nil {
		j.ws = newWorkspace()
	}
	p.account(j)
	p.byName[j.name] = len(p.jobs)
	p.jobs = append(p.jobs, j)
}

func (p *parser) nameOK(e entry) bool {
	switch {
	case strings.TrimSpace(e.key) == "":
		p.errorf(e.at, JobName, "a job's name can't be blank")
	case known(reserved, e.key):
		p.errorf(e.at, JobName, "%s is a reserved word and can't name a job", e.key)
	case utf8.RuneCountInString(e.key) > maxName:
		p.errorf(e.at, JobName, "%s job: the name is longer than %d characters", show(e.key), maxName)
	case strings.ContainsFunc(e.key, unicode.IsControl):
		p.errorf(e.at, JobName, "%s job: the name contains a control character or a line break", show(e.key))
	default:
		return true
	}
	return false
}

// readKey reads one key of a job, which has a value.
func (p *parser) readKey(j *job, key string, v *value) {
	where := j.where(key)
	switch key {
	case "before_script":
		j.spec.Before = p.script(v, where)
	case "after_script":
		j.spec.After = p.script(v, where)
	case "script":
		before := p.errors
		j.spec.Script = p.script(v, where)
		if p.errors == before && blank(j.spec.Script) {
			p.errorf(v.at, JobScript, "%s can't be empty", where)
		}
	case "variables":
		set, ok := p.varSets[v]
		if !ok {
			set = p.variables(v, where)
			p.varSets[v] = set
		}
		j.spec.Variables = set
	case "needs":
		p.readNeeds(j, v)
	case "tags":
		j.tags = p.tags(v, where)
	case "timeout":
		p.timeout(j, v, where)
	case "allow_failure":
		j.allow = p.allowFailure(v, where)
	case "when":
		if when, ok := p.oneOf(v, where, []string{OnSuccess, OnFailure, Always}, []string{"manual", "delayed", "never"}); ok {
			j.when = when
		}
	case "parallel":
		p.parallel(j, v, where)
	case "retry":
		j.retry = p.retry(v, where)
	case "workspace":
		j.ws = p.readWorkspace(v, where)
	}
}

// account adds what j takes in the graph and reports when that is too much.
func (p *parser) account(j *job) {
	n := len(j.name) + 256
	for _, lines := range [][]string{j.spec.Before, j.spec.Script, j.spec.After, j.tags, j.ws.spec.Atomic, j.ws.spec.Caches} {
		for _, l := range lines {
			n += len(l) + 4
		}
	}
	for k, v := range j.spec.Variables {
		n += len(k) + len(v) + 8
	}
	for _, pr := range j.ws.prefer {
		n += len(pr.glob) + len(pr.job) + 8
	}
	n *= j.count()
	if n > maxGraph-p.size {
		p.errorf(j.at, JobSize, "%s job: up to here the jobs have more than %d MiB of scripts and variables in all; put scripts into files of the repository",
			show(j.name), maxGraph>>20)
		p.size = maxGraph + 1
		return
	}
	p.size += n
}
