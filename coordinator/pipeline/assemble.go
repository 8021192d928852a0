package pipeline

import "strings"

// instance is one of the jobs that a job of the file becomes: base is its number
// in p.jobs, index counts from 1, and is 0 for a job without parallel. Where jobs
// are named, index 0 stands for all instances of base.
type instance struct{ base, index int }

// expand numbers all jobs of the graph. It reports whether there is a point in
// going on.
func (p *parser) expand() bool {
	total := 0
	for _, j := range p.jobs {
		total += j.count()
	}
	if total > maxJobs {
		p.errorf(pos{1, 1}, JobLimit, "the pipeline has %d jobs, the instances of parallel counted; at most %d are allowed", total, maxJobs)
		return false
	}
	for b, j := range p.jobs {
		j.first = len(p.all)
		for i := range j.count() {
			in := instance{base: b}
			if j.total > 0 {
				in.index = i + 1
				p.instance(j, in)
			}
			p.all = append(p.all, in)
		}
	}
	return true
}

// instance enters the name of an instance, which nobody else may have.
func (p *parser) instance(j *job, in instance) {
	name := instanceName(j.name, in.index, j.total)
	if b, ok := p.byName[name]; ok {
		p.errorf(p.jobs[b].at, JobDuplicate, "%s job: this is also the name of an instance of %s; rename one of them", show(name), show(j.name))
		return
	}
	p.instances[name] = in
}

// lookup returns what a name stands for: a job, all its instances, or one.
func (p *parser) lookup(name string) (instance, bool) {
	if b, ok := p.byName[name]; ok {
		return instance{base: b}, true
	}
	in, ok := p.instances[name]
	return in, ok
}

// failed reports whether name is an entry of the file that should have become a
// job and could not, which was reported: to report its absence too is noise.
func (p *parser) failed(name string) bool {
	_, ok := p.root.lookup(name)
	return ok && name[0] != '.' && !known(globalKeys, name)
}

// members returns the numbers in p.all of an instance, or of all of a base job.
func (p *parser) members(in instance) []int {
	j := p.jobs[in.base]
	if in.index > 0 {
		return []int{j.first + in.index - 1}
	}
	all := make([]int, j.count())
	for i := range all {
		all[i] = j.first + i
	}
	return all
}

// broken reports whether something is wrong with the shape of the graph, so that
// questions on who waits for whom have no answer.
func (p *parser) broken() bool {
	for _, pr := range p.list {
		if pr.Warning {
			continue
		}
		for _, prefix := range []string{"YAML_", "JOB_", "EXTENDS_", "STAGE_", "NEED_", TooMany} {
			if strings.HasPrefix(pr.Code, prefix) {
				return true
			}
		}
	}
	return false
}

// assemble makes the graph out of jobs whose needs are resolved.
func (p *parser) assemble() *Graph {
	h := newHeirs(p)
	names := make([]string, len(p.all))
	for i, in := range p.all {
		names[i] = p.jobs[in.base].name
		if in.index > 0 {
			names[i] = instanceName(names[i], in.index, p.jobs[in.base].total)
		}
	}
	nameAll := namer(names)
	order := nameAll(h.order)
	g := &Graph{Stages: p.stages, Jobs: make([]Job, 0, len(p.all))}
	for b, j := range p.jobs {
		parents := h.parents(b)
		common := Job{
			Spec: j.spec, Base: j.name, Line: j.at.line, HasNeeds: j.hasNeeds,
			Waits: order[:h.before[j.stage]:h.before[j.stage]], Parents: nameAll(parents),
			Tags: j.tags, AllowFailure: j.allow, When: j.when, Retry: j.retry,
			Source: j.spec.Variables["GIT_STRATEGY"] != "none",
		}
		if j.hasNeeds {
			common.Needs, common.Waits = p.expandNeeds(j, names)
		}
		common.Spec.Stage = p.stages[j.stage]
		common.Spec.Workspace = j.ws.spec
		common.Spec.Workspace.Prefer = h.preferences(j, parents)
		common.Spec.Workspace.Mode = mode(j.ws, len(parents))
		for i := range j.count() {
			one := common
			one.Spec.Name = names[j.first+i]
			if j.total > 0 {
				one.Spec.Index, one.Spec.Total = i+1, j.total
			}
			g.Jobs = append(g.Jobs, one)
		}
	}
	return g
}

// mode is what the agent may do when the parents' files can't be had: nothing to
// lose for a job without parents, and by default nothing to start from for others.
func mode(ws *workspace, parents int) string {
	switch {
	case parents == 0:
		return ModeOptional
	case ws.spec.Mode != "":
		return ws.spec.Mode
	default:
		return ModeRequired
	}
}

// expandNeeds returns the needs of j by the names of single jobs.
func (p *parser) expandNeeds(j *job, names []string) ([]Need, []string) {
	needs := make([]Need, 0, len(j.needs))
	waits := make([]string, 0, len(j.needs))
	for _, n := range j.needs {
		if n.base < 0 {
			continue // optional, and there is no such job
		}
		for _, i := range p.members(instance{n.base, n.instance}) {
			needs = append(needs, Need{Job: names[i], Workspace: n.workspace, Optional: n.optional})
			waits = append(waits, names[i])
		}
	}
	return needs, waits
}

// namer returns a function that maps lists of numbers to names, equal lists (the
// same memory) to the same list.
func namer(names []string) func([]int) []string {
	type key struct {
		first *int
		n     int
	}
	made := make(map[key][]string)
	return func(list []int) []string {
		if len(list) == 0 {
			return nil
		}
		k := key{&list[0], len(list)}
		if out, ok := made[k]; ok {
			return out
		}
		out := make([]string, len(list))
		for i, n := range list {
			out[i] = names[n]
		}
		made[k] = out
		return out
	}
}
