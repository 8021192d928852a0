package pipeline

import "fmt"

// need is one entry of needs.
type need struct {
	name      string
	at        pos
	workspace bool
	optional  bool

	// What resolveNeeds found: the base job, and which instance of it, 0 for all.
	// base is -1 for a need that is not to be followed.
	base, instance int
}

// readNeeds reads the key needs of a job.
func (p *parser) readNeeds(j *job, v *value) {
	where := j.where("needs")
	j.hasNeeds = true
	if v.kind != list {
		p.errorf(v.at, NeedForm, "%s must be a list of jobs, not %s", where, v.what())
		return
	}
	items := v.items
	if limit := p.opts.NeedLimit; limit > 0 && len(items) > limit {
		p.errorf(v.at, NeedOverLimit, "%s job: number of needs exceeds the limit of %d: there are %d", show(j.name), limit, len(items))
		items = items[:limit]
	}
	seen := make(map[string]bool, len(items))
	for _, item := range items {
		n, ok := p.need(item, where)
		if !ok {
			continue
		}
		if seen[n.name] {
			p.errorf(n.at, NeedDuplicate, "%s has the following needs duplicated: %s", show(j.name), show(n.name))
			continue
		}
		seen[n.name] = true
		j.needs = append(j.needs, n)
	}
}

// need reads one entry: the name of a job, or a mapping with the key job.
func (p *parser) need(v *value, where string) (need, bool) {
	n := need{at: v.at, workspace: true, base: -1}
	if v.kind != dict {
		if v.kind != scalar {
			p.errorf(v.at, NeedForm, "%s: an entry must be the name of a job or a mapping with the key job, not %s", where, v.what())
			return n, false
		}
		name, ok := p.str(v, where+": an entry")
		n.name = name
		return n, ok
	}
	ok, later := true, false
	for _, e := range v.entries {
		_, l := needLater[e.key]
		later = later || l
	}
	for _, e := range p.mappingKeys(v, where, needKeys, needLater) {
		good := false
		switch e.key {
		case "job":
			n.name, good = p.str(e.val, where+": job")
			n.at = e.val.at
		case "workspace":
			n.workspace, good = p.boolean(e.val, where+": workspace")
		case "optional":
			n.optional, good = p.boolean(e.val, where+": optional")
		}
		ok = ok && good
	}
	if v.get("job") == nil {
		if !later {
			p.errorf(v.at, NeedForm, "%s: an entry without job names nothing to need", where)
		}
		ok = false
	}
	return n, ok
}

// resolveNeeds finds the jobs that needs name and checks their stages.
func (p *parser) resolveNeeds() {
	for i, j := range p.jobs {
		named := make(map[instance]bool, len(j.needs))
		for k := range j.needs {
			n := &j.needs[k]
			if !p.find(j, n) {
				continue
			}
			p.checkNeed(i, n)
			p.checkTwice(j, n, named)
		}
	}
}

// find sets n.base and n.instance.
func (p *parser) find(j *job, n *need) bool {
	if base, ok := p.byName[n.name]; ok {
		n.base, n.instance = base, 0
		return true
	}
	if in, ok := p.instances[n.name]; ok {
		n.base, n.instance = in.base, in.index
		return true
	}
	if p.failed(n.name) {
		return false
	}
	if n.optional {
		p.warnf(n.at, NeedUnknown, "%s job: optional need %s names no job and is ignored%s", show(j.name), quote(n.name), p.meantJob(n.name))
	} else {
		p.errorf(n.at, NeedUnknown, "%s job: undefined need: %s%s", show(j.name), show(n.name), p.meantJob(n.name))
	}
	return false
}

// meantJob is the end of a sentence on a name that no job has.
func (p *parser) meantJob(name string) string {
	if p.full() {
		return ""
	}
	if e, ok := p.root.lookup(name); ok && name[0] == '.' && e.val.kind == dict {
		return "; it is a hidden job, and those don't run"
	}
	names := make([]string, 0, len(p.jobs))
	for _, j := range p.jobs {
		if len(name) > len(j.name)+1 && name[:len(j.name)+1] == j.name+" " && j.total > 0 {
			return fmt.Sprintf("; %s has the instances %s to %s", show(j.name),
				quote(instanceName(j.name, 1, j.total)), quote(instanceName(j.name, j.total, j.total)))
		}
		names = append(names, j.name)
	}
	return p.meant(name, names)
}

// checkNeed reports a need of a later stage and of the job itself. Such a need is
// not followed any further.
func (p *parser) checkNeed(i int, n *need) {
	j, other := p.jobs[i], p.jobs[n.base]
	switch {
	case n.base == i:
		p.errorf(n.at, NeedCycle, "%s job: it needs itself", show(j.name))
	case j.stage >= 0 && other.stage > j.stage:
		p.errorf(n.at, NeedForward, "%s job: need %s is not defined in current or prior stages: it is in %s, and this job in %s",
			show(j.name), show(n.name), show(p.stages[other.stage]), show(p.stages[j.stage]))
	default:
		return
	}
	n.base = -1
}

// checkTwice reports a job that is needed by its own name and as an instance.
func (p *parser) checkTwice(j *job, n *need, named map[instance]bool) {
	if n.base < 0 {
		return
	}
	whole := instance{base: n.base}
	one := instance{n.base, n.instance}
	if named[whole] || (n.instance == 0 && p.anyInstance(n.base, named)) {
		p.errorf(n.at, NeedDuplicate, "%s has the following needs duplicated: %s, by the name %s and by an instance of it",
			show(j.name), show(n.name), show(p.jobs[n.base].name))
		n.base = -1
		return
	}
	named[one] = true
}

func (p *parser) anyInstance(base int, named map[instance]bool) bool {
	for i := 1; i <= p.jobs[base].total; i++ {
		if named[instance{base, i}] {
			return true
		}
	}
	return false
}
