package pipeline

import (
	"github.com/roost-ci/roost/coordinator/api"
)

// heirs computes who inherits from whom. Jobs are numbers of p.all here: names
// come in at the end, and lists are shared by all jobs that have the same.
type heirs struct {
	p *parser
	// order are all jobs by stage, in file order within one; before[s] is how many
	// of them are in stages listed before s.
	order  []int
	before []int

	byJob   map[int][]int // by base job
	byStage map[int][]int
	// mark[i] == turn says that job i is in the list being made.
	mark []int
	turn int
}

func newHeirs(p *parser) *heirs {
	h := &heirs{p: p, byJob: make(map[int][]int), byStage: make(map[int][]int), mark: make([]int, len(p.all))}
	h.before = make([]int, len(p.stages)+1)
	for _, in := range p.all {
		h.before[p.jobs[in.base].stage+1]++
	}
	for s := range p.stages {
		h.before[s+1] += h.before[s]
	}
	h.order = make([]int, len(p.all))
	next := append([]int(nil), h.before...)
	for i, in := range p.all {
		s := p.jobs[in.base].stage
		h.order[next[s]] = i
		next[s]++
	}
	return h
}

// parents returns the jobs that base job b inherits from, in merge order.
func (h *heirs) parents(b int) []int {
	if ps, ok := h.byJob[b]; ok {
		return ps
	}
	j := h.p.jobs[b]
	var ps []int
	switch {
	case j.ws.spec.Disabled || j.ws.inherit == inheritNone:
	case j.ws.inherit == inheritListed:
		ps = h.collect(h.listed(b))
	case j.ws.inherit == inheritStages || !j.hasNeeds:
		ps = h.ofStage(j.stage)
	default:
		ps = h.collect(h.needed(j))
	}
	h.byJob[b] = ps
	return ps
}

// ofStage returns every job of the stages before s that leaves something. What one
// with commit: never passes on comes from earlier stages too, so it is there.
func (h *heirs) ofStage(s int) []int {
	if ps, ok := h.byStage[s]; ok {
		return ps
	}
	var ps []int
	for _, i := range h.order[:h.before[s]] {
		if ws := h.p.jobs[h.p.all[i].base].ws; !ws.spec.Disabled && ws.spec.Commit != CommitNever {
			ps = append(ps, i)
		}
	}
	h.byStage[s] = ps
	return ps
}

// needed returns the entries of needs whose files are wanted.
func (h *heirs) needed(j *job) []instance {
	var ins []instance
	for _, n := range j.needs {
		if n.base >= 0 && n.workspace {
			ins = append(ins, instance{n.base, n.instance})
		}
	}
	return ins
}

// listed returns the jobs of inherit: [...], and reports those that can't be
// inherited from. That a name exists is checked by checkInherit.
func (h *heirs) listed(b int) []instance {
	j := h.p.jobs[b]
	done := h.reach(b)
	refused := make(map[instance]bool)
	for _, n := range j.needs {
		if !n.workspace {
			refused[instance{n.base, n.instance}] = true
		}
	}
	var ins []instance
	for _, ref := range j.ws.from {
		in, ok := h.p.lookup(ref.name)
		if !ok {
			continue
		}
		other := h.p.jobs[in.base]
		switch {
		case !h.reached(done, in):
			h.p.errorf(ref.at, InheritWait, "%s job: inherits from %s, which it does not wait for; add it to needs", show(j.name), show(ref.name))
		case refused[in]:
			h.p.errorf(ref.at, InheritNothing, "%s job: inherits from %s, and says workspace: false for it in needs", show(j.name), show(ref.name))
		case other.ws.spec.Disabled:
			h.p.errorf(ref.at, InheritNothing, "%s job: inherits from %s, which has workspace: false and leaves no files", show(j.name), show(ref.name))
		default:
			ins = append(ins, in)
		}
	}
	return ins
}

// collect turns jobs into the list of those that leave files, each once. A job
// that never commits leaves what it started with.
func (h *heirs) collect(ins []instance) []int {
	lists := make([][]int, 0, len(ins))
	for _, in := range ins {
		other := h.p.jobs[in.base]
		switch {
		case other.ws.spec.Disabled:
		case other.ws.spec.Commit == CommitNever:
			lists = append(lists, h.parents(in.base))
		default:
			lists = append(lists, h.p.members(in))
		}
	}
	h.turn++
	var ps []int
	for _, l := range lists {
		for _, i := range l {
			if h.mark[i] != h.turn {
				h.mark[i] = h.turn
				ps = append(ps, i)
			}
		}
	}
	return ps
}

// ended is what has ended when a job starts: all jobs of stages before stage, and
// those of jobs.
type ended struct {
	stage int
	jobs  map[int]bool
}

// reach follows waiting from base job b. Whatever a job of an earlier stage waits
// for is itself in that stage or before, so stages need not be followed.
func (h *heirs) reach(b int) ended {
	e := ended{jobs: make(map[int]bool)}
	been := map[int]bool{b: true}
	queue := []int{b}
	for len(queue) > 0 {
		j := h.p.jobs[queue[0]]
		queue = queue[1:]
		if !j.hasNeeds {
			e.stage = max(e.stage, j.stage)
			continue
		}
		for _, n := range j.needs {
			if n.base < 0 {
				continue
			}
			for _, i := range h.p.members(instance{n.base, n.instance}) {
				e.jobs[i] = true
			}
			if !been[n.base] {
				been[n.base] = true
				queue = append(queue, n.base)
			}
		}
	}
	return e
}

func (h *heirs) reached(e ended, in instance) bool {
	if h.p.jobs[in.base].stage < e.stage {
		return true
	}
	for _, i := range h.p.members(in) {
		if !e.jobs[i] {
			return false
		}
	}
	return true
}

// checkInherit reports what is wrong with the words of inherit and prefer, without
// asking who waits for whom.
func (p *parser) checkInherit() {
	for _, j := range p.jobs {
		if j.ws.inherit == inheritNeeds && !j.hasNeeds {
			p.errorf(j.ws.inheritAt, InheritForm, "%s job: inherits from its needs and has none; write inherit: stages, or add needs", show(j.name))
		}
		if j.ws.inherit == inheritStages && j.hasNeeds {
			p.errorf(j.ws.inheritAt, InheritWait, "%s job: inherits from the earlier stages and does not wait for them, because it has needs; list jobs in inherit, or remove needs", show(j.name))
		}
		for _, ref := range j.ws.from {
			if _, ok := p.lookup(ref.name); !ok && !p.failed(ref.name) {
				p.errorf(ref.at, InheritUnknown, "%s job: inherits from unknown job %s%s", show(j.name), quote(ref.name), p.meantJob(ref.name))
			}
		}
	}
}

// preferences turns prefer into what the agent merges by. parents are j's.
func (h *heirs) preferences(j *job, parents []int) []api.Prefer {
	if len(j.ws.prefer) == 0 {
		return nil
	}
	h.turn++
	for _, i := range parents {
		h.mark[i] = h.turn
	}
	var out []api.Prefer
	for _, pr := range j.ws.prefer {
		in, ok := h.p.lookup(pr.job)
		switch {
		case !ok:
			h.p.errorf(pr.at, PreferUnknown, "%s job: prefers unknown job %s%s", show(j.name), quote(pr.job), h.p.meantJob(pr.job))
		case len(h.p.members(in)) > 1:
			h.p.errorf(pr.at, PreferUnknown, "%s job: prefers %s, which has %d instances; name one: %s", show(j.name), show(pr.job),
				h.p.jobs[in.base].total, quote(instanceName(pr.job, 1, h.p.jobs[in.base].total)))
		case h.mark[h.p.members(in)[0]] != h.turn:
			h.p.errorf(pr.at, PreferUnknown, "%s job: prefers %s, from which it inherits nothing", show(j.name), show(pr.job))
		default:
			out = append(out, api.Prefer{Glob: pr.glob, Job: pr.job})
		}
	}
	return out
}
