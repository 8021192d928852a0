package pipeline

import (
	"slices"
	"strings"
)

// findCycles reports one cycle of needs for every set of jobs that need one
// another. Needs of later stages were reported already and are not followed, so a
// cycle lies within one stage; the stages themselves can't make one. Instances of a
// job share its needs, so the jobs of the file are all that must be looked at.
func (p *parser) findCycles() {
	s := &components{p: p, at: make([]int, len(p.jobs)), low: make([]int, len(p.jobs)), on: make([]bool, len(p.jobs))}
	for i := range p.jobs {
		if s.at[i] == 0 {
			s.visit(i)
		}
	}
	for _, set := range s.found {
		slices.Sort(set)
		p.reportLoop(set)
	}
}

// components finds strongly connected sets of more than one job (Tarjan). A job
// that needs itself is no edge here.
type components struct {
	p       *parser
	clock   int
	at, low []int
	on      []bool
	stack   []int
	found   [][]int
}

// visit goes at most maxJobs deep.
func (s *components) visit(i int) {
	s.clock++
	s.at[i], s.low[i] = s.clock, s.clock
	s.stack = append(s.stack, i)
	s.on[i] = true
	for _, n := range s.p.jobs[i].needs {
		switch {
		case n.base < 0:
		case s.at[n.base] == 0:
			s.visit(n.base)
			s.low[i] = min(s.low[i], s.low[n.base])
		case s.on[n.base]:
			s.low[i] = min(s.low[i], s.at[n.base])
		}
	}
	if s.low[i] != s.at[i] {
		return
	}
	from := slices.Index(s.stack, i)
	set := slices.Clone(s.stack[from:])
	s.stack = s.stack[:from]
	for _, k := range set {
		s.on[k] = false
	}
	if len(set) > 1 {
		s.found = append(s.found, set)
	}
}

// reportLoop reports the shortest cycle through the first job of a set.
func (p *parser) reportLoop(set []int) {
	in := make(map[int]bool, len(set))
	for _, i := range set {
		in[i] = true
	}
	start := set[0]
	before := map[int]int{}
	queue := []int{start}
	for len(queue) > 0 {
		i := queue[0]
		queue = queue[1:]
		for _, n := range p.jobs[i].needs {
			if n.base == start {
				p.reportPath(start, i, before)
				return
			}
			if _, been := before[n.base]; n.base >= 0 && in[n.base] && !been {
				before[n.base] = i
				queue = append(queue, n.base)
			}
		}
	}
}

// reportPath reports the cycle from start over last back to start.
func (p *parser) reportPath(start, last int, before map[int]int) {
	path := []int{start}
	for i := last; i != start; i = before[i] {
		path = append(path, i)
	}
	slices.Reverse(path[1:])
	path = append(path, start)
	names := make([]string, len(path))
	for k, i := range path {
		names[k] = show(p.jobs[i].name)
	}
	at := p.jobs[start].at
	for _, n := range p.jobs[start].needs {
		if n.base == path[1] {
			at = n.at
			break
		}
	}
	p.errorf(at, NeedCycle, "the pipeline has circular dependencies: %s; remove one of these needs", strings.Join(names, " -> "))
}
