package pipeline

import "strings"

const (
	stagePre  = ".pre"
	stagePost = ".post"
	// stageDefault is the stage of a job that names none.
	stageDefault = "test"
)

// readStages fills p.stages and p.stageAt from the key stages, v being nil where
// the file has none.
func (p *parser) readStages(v *value) {
	names := []string{"build", stageDefault, "deploy"}
	if v != nil {
		names = p.stageList(v)
	}
	p.stages = append(append([]string{stagePre}, names...), stagePost)
	p.stageAt = make(map[string]int, len(p.stages))
	for i, s := range p.stages {
		p.stageAt[s] = i
	}
}

func (p *parser) stageList(v *value) []string {
	if v.kind != list {
		p.errorf(v.at, StageForm, "stages must be a list of names, not %s", v.what())
		return nil
	}
	if len(v.items) == 0 {
		p.errorf(v.at, StageForm, "stages can't be empty; remove the key for build, test, deploy")
	}
	type listed struct {
		line     int
		requires bool
	}
	var names []string
	seen := make(map[string]listed)
	for i, item := range v.items {
		name, requires, ok := p.stage(item)
		if !ok || p.reservedStage(name, item, i, len(v.items)) {
			continue
		}
		first, again := seen[name]
		switch {
		case again && (first.requires || requires):
			p.errorf(item.at, StageDuplicate, "stage %s is listed twice, first on line %d", show(name), first.line)
		case again:
			p.warnf(item.at, StageDuplicate, "stage %s is listed twice, first on line %d; the first counts", show(name), first.line)
		default:
			seen[name] = listed{item.at.line, requires}
			names = append(names, name)
		}
	}
	return names
}

// reservedStage reports whether a stage of that name is not the file's to define.
func (p *parser) reservedStage(name string, item *value, i, n int) bool {
	switch {
	case name == "previous":
		p.errorf(item.at, StageReserved, "no stage can be named previous: in requires it means all earlier stages")
	case name == stagePre && i != 0:
		p.warnf(item.at, StageReserved, "stage .pre is always the first, wherever it is listed")
	case name == stagePost && i != n-1:
		p.warnf(item.at, StageReserved, "stage .post is always the last, wherever it is listed")
	case name != stagePre && name != stagePost:
		return false
	}
	return true
}

// stage reads one item of stages. Forms with requires are recognised in order to be
// refused by name.
func (p *parser) stage(item *value) (name string, requires, ok bool) {
	if item.kind != dict {
		if item.kind == null || item.kind == list {
			p.errorf(item.at, StageForm, "a stage must be a name, not %s", item.what())
			return "", false, false
		}
		name, ok = p.str(item, "stages: an entry")
		return name, false, ok
	}
	if named := item.get("name"); named != nil && (len(item.entries) == 1 || item.get("requires") != nil) {
		name, ok = p.str(named, "stages: name")
		return name, p.refuseRequires(name, item), ok
	}
	if len(item.entries) != 1 {
		p.errorf(item.at, StageForm, "a stage must be a name, or a mapping of one name, not a mapping of %d keys", len(item.entries))
		return "", false, false
	}
	e := item.entries[0]
	return e.key, p.refuseRequires(e.key, e.val), true
}

// refuseRequires reports the key requires in what a stage is mapped to: a mapping
// or a list of mappings. It reports every other key as unknown.
func (p *parser) refuseRequires(stage string, v *value) bool {
	found := false
	each := []*value{v}
	if v.kind == list {
		each = v.items
	}
	for _, d := range each {
		if d.kind != dict {
			p.errorf(d.at, StageForm, "stage %s: expected requires, found %s", show(stage), d.what())
			continue
		}
		for _, e := range d.entries {
			switch e.key {
			case "name":
			case "requires":
				found = true
				p.errorf(e.at, Unsupported, "stage %s: requires is known, but not supported yet; a stage waits for all earlier ones, use needs in its jobs", show(stage))
			default:
				p.errorf(e.at, StageForm, "stage %s: unknown key %s%s", show(stage), show(e.key), p.meant(e.key, []string{"requires"}))
			}
		}
	}
	return found
}

// jobStage returns the index of a job's stage, or -1 after a report.
func (p *parser) jobStage(j *job, v *value) int {
	name := stageDefault
	at := j.at
	if v != nil {
		at = v.at
		text, ok := p.str(v, j.where("stage"))
		if !ok {
			return -1
		}
		name = text
	}
	i, ok := p.stageAt[name]
	if ok {
		return i
	}
	if v == nil {
		p.errorf(at, StageUnknown, "%s job: it has no stage, and the default %s is not among the stages: %s", show(j.name), stageDefault, p.stageNames())
	} else {
		p.errorf(at, StageUnknown, "%s job: chosen stage %s does not exist; available stages are %s%s",
			show(j.name), show(name), p.stageNames(), p.meant(name, p.stages))
	}
	return -1
}

func (p *parser) stageNames() string {
	if len(p.stages) <= 20 {
		shown := make([]string, len(p.stages))
		for i, s := range p.stages {
			shown[i] = show(s)
		}
		return strings.Join(shown, ", ")
	}
	return shorten(p.stages)
}
