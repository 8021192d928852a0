package affinity

import (
	"cmp"
	"slices"
)

// fair orders the jobs of the fleet: the project with the fewest slots goes first,
// in it the oldest pipeline, in that the file's order. Every job that is ahead
// counts as a slot of its project, so that nobody takes all free ones at once.
func fair(f *Fleet) []int {
	byProject := map[string][]int{}
	for i := range f.Jobs {
		p := f.Jobs[i].Project
		byProject[p] = append(byProject[p], i)
	}
	type queue struct {
		name string
		have int
		jobs []int
	}
	queues := make([]*queue, 0, len(byProject))
	for p, jobs := range byProject {
		slices.SortFunc(jobs, func(a, b int) int {
			x, y := &f.Jobs[a], &f.Jobs[b]
			return cmp.Or(cmp.Compare(x.Pipeline, y.Pipeline), cmp.Compare(x.Index, y.Index), cmp.Compare(x.ID, y.ID))
		})
		queues = append(queues, &queue{name: p, have: f.Running[p], jobs: jobs})
	}
	before := func(a, b *queue) int {
		return cmp.Or(cmp.Compare(a.have, b.have), cmp.Compare(a.name, b.name))
	}
	slices.SortFunc(queues, before)
	out := make([]int, 0, len(f.Jobs))
	for len(queues) > 0 {
		q := queues[0]
		out = append(out, q.jobs[0])
		q.jobs = q.jobs[1:]
		q.have++
		queues = queues[1:]
		if len(q.jobs) > 0 {
			at, _ := slices.BinarySearchFunc(queues, q, before)
			queues = slices.Insert(queues, at, q)
		}
	}
	return out
}
