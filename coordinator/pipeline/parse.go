package pipeline

import (
	"maps"
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
)

// Options are what a file is parsed with. The zero value works.
type Options struct {
	// Variables came with the request. They win over those in the file.
	Variables map[string]string
	// NeedLimit is how many entries a job's needs may have: 0 means 50, a negative
	// number no limit.
	NeedLimit int
}

const defaultNeedLimit = 50

// Parse reads a pipeline file. The problems are sorted by position. If one of them
// is not a warning the graph is nil. file is used in messages only.
//
// The graph and all that the file can make of it are bounded (see the constants of
// this package), so text may come from anybody. Parse is pure: equal arguments
// give equal results.
func Parse(file string, text []byte, o Options) (*Graph, []api.Problem) {
	p := &parser{
		report:     &report{},
		opts:       o,
		templates:  make(map[string]*template),
		pending:    make(map[string]bool),
		scripts:    make(map[*value][]string),
		varSets:    make(map[*value]map[string]string),
		workspaces: make(map[*value]*workspace),
		byName:     make(map[string]int),
		instances:  make(map[string]instance),
	}
	if o.NeedLimit == 0 {
		p.opts.NeedLimit = defaultNeedLimit
	}
	p.request()
	if p.root = readYAML(p.report, file, text); p.root == nil {
		return nil, p.sorted()
	}
	g := p.graph(file)
	if p.errors > 0 {
		g = nil
	}
	return g, p.sorted()
}

// parser is the state of one Parse.
type parser struct {
	*report
	opts Options
	root *value // the file, a dict

	stages  []string
	stageAt map[string]int
	// vars are those of the top level; defaults are the values of the keys that a
	// job gets where it has none.
	vars     map[string]string
	defaults map[string]*value

	templates map[string]*template
	pending   map[string]bool // templates being resolved
	merges    int             // see maxMerges

	// What several jobs share is read once.
	scripts    map[*value][]string
	varSets    map[*value]map[string]string
	workspaces map[*value]*workspace

	jobs      []*job
	byName    map[string]int      // of jobs, before parallel is expanded
	instances map[string]instance // of those with parallel
	all       []instance          // every job of the graph, in file order
	size      int                 // of the graph, see maxGraph
}

// graph builds the graph from p.root. What it returns is of use only if nothing
// was reported but warnings.
func (p *parser) graph(file string) *Graph {
	if p.root.kind != dict {
		p.errorf(p.root.at, JobForm, "%s must be a mapping of jobs and stages, not %s", show(file), p.root.what())
		return nil
	}
	entries := p.topLevel()
	p.readStages(p.root.get("stages"))
	p.vars = p.variables(p.root.get("variables"), "variables")
	p.readDefaults()
	for _, e := range entries {
		if p.full() || p.size > maxGraph {
			return nil
		}
		p.readJob(e)
	}
	if len(entries) == 0 {
		p.errorf(pos{1, 1}, JobsEmpty, "%s has no job; a pipeline needs at least one whose name does not begin with a dot", show(file))
		return nil
	}
	if !p.expand() {
		return nil
	}
	p.resolveNeeds()
	p.findCycles()
	p.checkInherit()
	if p.broken() {
		return nil
	}
	return p.assemble()
}

// topLevel returns the entries that are jobs to run and reports those that are
// neither that nor a hidden job nor a known key.
func (p *parser) topLevel() []entry {
	var jobs []entry
	for _, e := range p.root.entries {
		cure, later := globalLater[e.key]
		switch {
		case e.key[0] == '.':
			// A hidden job, or whatever people put behind an anchor.
		case known(globalKeys, e.key):
			if e.val.kind == null {
				p.emptyKey(p.root, e, "the top level")
			}
		case later:
			p.errorf(e.at, Unsupported, "%s is known, but not supported yet; %s", e.key, cure)
		case e.val.kind != dict:
			p.strange(e)
		case !hasJobKey(e.val) && p.misspelt(e):
		default:
			jobs = append(jobs, e)
		}
	}
	return jobs
}

func hasJobKey(d *value) bool {
	for _, e := range d.entries {
		if _, later := jobLater[e.key]; later || known(jobKeys, e.key) {
			return true
		}
	}
	return false
}

// misspelt reports a mapping whose name is nearly that of a key of the top level.
func (p *parser) misspelt(e entry) bool {
	meant := p.meant(e.key, globalKeys)
	if meant == "" {
		return false
	}
	p.errorf(e.at, KeyUnknown, "unknown key %s%s; as a job it would need a script", show(e.key), meant)
	return true
}

// strange reports a top-level entry that can be no job.
func (p *parser) strange(e entry) {
	_, later := jobLater[e.key]
	switch {
	case known(defaultKeys, e.key) || known(defaultLater, e.key):
		p.errorf(e.at, KeyUnknown, "%s is a key of jobs; for all of them put it below default:", e.key)
	case known(jobKeys, e.key) || later:
		p.errorf(e.at, KeyUnknown, "%s is a key of jobs; put it into one", e.key)
	case nearestOnly(e.key, globalKeys):
		p.errorf(e.at, KeyUnknown, "unknown key %s%s", show(e.key), p.meant(e.key, globalKeys))
	default:
		p.errorf(e.at, JobForm, "%s job: must be a mapping with a script, not %s", show(e.key), e.val.what())
	}
}

func nearestOnly(word string, candidates []string) bool {
	_, ok := nearest(word, candidates)
	return ok
}

// readDefaults fills p.defaults from default and from before_script and
// after_script of the top level.
func (p *parser) readDefaults() {
	p.defaults = make(map[string]*value)
	if d := p.root.get("default"); d != nil && d.kind != dict {
		p.wrong(d, "default", "a mapping of keys of jobs")
	} else if d != nil {
		later := make(map[string]string)
		for _, key := range defaultLater {
			later[key] = jobLater[key]
		}
		for _, e := range d.entries {
			_, isLater := later[e.key]
			if _, other := jobLater[e.key]; (other || known(jobKeys, e.key)) && !isLater && !known(defaultKeys, e.key) {
				p.errorf(e.at, KeyUnknown, "default: %s can't be a default; %s", e.key, insteadOfDefault(e.key))
			}
		}
		for _, e := range p.mappingKeys(d, "default", defaultKeys, later) {
			p.defaults[e.key] = e.val
		}
	}
	for _, key := range []string{"before_script", "after_script"} {
		e, ok := p.root.lookup(key)
		if !ok || e.val.kind == null {
			continue
		}
		if _, twice := p.defaults[key]; twice {
			p.errorf(e.at, KeyTwice, "%s is defined at the top level and below default; keep the one below default", key)
		}
		p.defaults[key] = e.val
	}
	p.checkDefaults()
}

func insteadOfDefault(key string) string {
	if key == "variables" {
		return "put it at the top level"
	}
	return "put it into the jobs, or into a hidden job that they extend"
}

// checkDefaults reads the defaults once for their own sake: a mistake in one should
// be reported as that, and also if every job has a value of its own.
func (p *parser) checkDefaults() {
	j := &job{name: "default", isDefault: true}
	for _, key := range slices.Sorted(maps.Keys(p.defaults)) {
		p.readKey(j, key, p.defaults[key])
	}
}
