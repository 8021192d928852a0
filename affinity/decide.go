package affinity

import (
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// decider is one decision under way. hosts is its own copy: slots are taken from
// it as jobs are placed.
type decider struct {
	p        Params
	fleet    *Fleet
	hosts    []Host
	reserved []int // jobs that were told to wait for a host
	fetching int
	slots    int // of hosts that are not off
	busy     int
	bound    float64
	able     map[string][]int // hosts that have a set of tags
	holders  map[snapshot.ID][]int
	open     int // slots that are free now
	done     map[int]bool
	out      Decision
}

// Decide places what can be placed. It never gives a host more jobs than it has
// free slots, nor a job to a host of another pool, or one that lacks one of its tags or of its
// files that can't be had.
func Decide(f Fleet) Decision {
	d := newDecider(&f)
	order := fair(&f)
	d.overdue(order)
	d.continuations(order)
	d.compare(order)
	return d.out
}

func newDecider(f *Fleet) *decider {
	d := &decider{
		p: f.Params.defaults(), fleet: f, hosts: slices.Clone(f.Hosts), reserved: make([]int, len(f.Hosts)),
		able: map[string][]int{}, done: make(map[int]bool, len(f.Jobs)),
	}
	for i := range d.hosts {
		h := &d.hosts[i]
		d.fetching += h.Fetching
		if h.Off == "" {
			d.slots += h.Slots
			d.busy += h.Slots - h.Free
			d.open += max(h.Free, 0)
		}
	}
	d.bound = f.Bound()
	d.index()
	return d
}

// Bound is how many seconds a job may wait although a host could run it. It
// grows with the queue: in a backlog a fixed bound would be over for everyone,
// and the order would degrade to one that looks at no files at all.
func (f *Fleet) Bound() float64 {
	p := f.Params.defaults()
	slots := 0
	for i := range f.Hosts {
		if f.Hosts[i].Off == "" {
			slots += f.Hosts[i].Slots
		}
	}
	if slots == 0 {
		return p.MaxWait
	}
	return p.MaxWait + 4*float64(len(f.Jobs))*p.Service/float64(slots)
}

// boundOf is Bound for one job.
func (d *decider) boundOf(j *Job) float64 {
	if j.MaxWait <= 0 {
		return d.bound
	}
	return d.bound - d.p.MaxWait + j.MaxWait
}

// hostsFor gives the hosts of j's pool that have all its tags.
func (d *decider) hostsFor(j *Job) []int {
	key := j.Pool + "\x00" + strings.Join(j.Tags, "\x00")
	if l, ok := d.able[key]; ok {
		return l
	}
	var out []int
	for i := range d.hosts {
		if d.hosts[i].Pool == j.Pool && hasAll(d.hosts[i].Tags, j.Tags) {
			out = append(out, i)
		}
	}
	d.able[key] = out
	return out
}

func hasAll(have, want []string) bool {
	for _, w := range want {
		if !slices.Contains(have, w) {
			return false
		}
	}
	return true
}

// allowed gives the hosts that may run j: those with its tags, without the ones
// that failed it as long as one that could take it is left.
func (d *decider) allowed(j *Job) []int {
	all := d.hostsFor(j)
	if len(j.Avoid) == 0 {
		return all
	}
	var out []int
	usable := false
	for _, h := range all {
		if !slices.Contains(j.Avoid, d.hosts[h].Name) {
			out = append(out, h)
			usable = usable || d.fit(j, h).excluded == ""
		}
	}
	if !usable {
		return all
	}
	return out
}

// keys are the snapshots of which a host must have one to be complete for j.
func keys(j *Job) []snapshot.ID {
	if len(j.Inputs) > 0 {
		if len(j.Inputs[0]) == 0 {
			return nil
		}
		return []snapshot.ID{j.Inputs[0][0].ID}
	}
	var ids []snapshot.ID
	for _, seeds := range j.Seeds {
		for _, c := range seeds {
			if len(c) > 0 {
				ids = append(ids, c[0].ID)
			}
		}
	}
	return ids
}

// index notes which hosts hold what the jobs start from, so that the passes look
// only at hosts that a job could be complete on.
func (d *decider) index() {
	d.holders = map[snapshot.ID][]int{}
	for i := range d.fleet.Jobs {
		for _, id := range keys(&d.fleet.Jobs[i]) {
			d.holders[id] = nil
		}
	}
	for h := range d.hosts {
		host := &d.hosts[h]
		if host.Off != "" {
			continue
		}
		if len(d.holders) < len(host.Has) {
			for id := range d.holders {
				if host.Has[id] {
					d.holders[id] = append(d.holders[id], h)
				}
			}
			continue
		}
		for id, has := range host.Has {
			if l, ok := d.holders[id]; ok && has {
				d.holders[id] = append(l, h)
			}
		}
	}
}

// holdersOf gives the hosts that j may be complete on, in order.
func (d *decider) holdersOf(j *Job) []int {
	ids := keys(j)
	if len(ids) == 1 {
		return d.holders[ids[0]]
	}
	var out []int
	for _, id := range ids {
		out = append(out, d.holders[id]...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// among reports whether h is one of hosts, which ascend.
func among(hosts []int, h int) bool {
	_, ok := slices.BinarySearch(hosts, h)
	return ok
}
