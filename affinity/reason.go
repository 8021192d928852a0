package affinity

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// assign places job i and takes the slot.
func (d *decider) assign(i int, f fit, c Code) {
	j, h := &d.fleet.Jobs[i], &d.hosts[f.host]
	cands := d.candidates(j, f.host)
	d.done[i] = true
	h.Free--
	d.open--
	d.busy++
	if f.missing > 0 {
		h.Fetching++
		d.fetching++
		d.arrives(j, h, f)
	}
	d.out.Assign = append(d.out.Assign, Assignment{
		Job: j.ID, Host: h.Name, Code: c, Reason: d.placed(j, f, c), Candidates: cands,
		Seed: f.seed, Missing: f.missing, Seconds: f.fetch,
	})
}

// placed is the sentence for an assignment.
func (d *decider) placed(j *Job, f fit, c Code) string {
	h := d.hosts[f.host].Name
	what := "all its files"
	if len(j.Inputs) == 0 {
		what = "its seed"
	}
	move := fmt.Sprintf("moves %s, about %s", size(f.missing), secs(f.fetch))
	if f.complete {
		move = "moves nothing"
	} else if len(j.Inputs) == 0 && f.seed == "" {
		move = "starts cold"
	}
	switch c {
	case Continuation:
		return fmt.Sprintf("%s holds %s and has a free slot", h, what)
	case NoInput:
		return fmt.Sprintf("nothing to move; %s has the most room", h)
	case OnlyHost:
		return fmt.Sprintf("no other host may run it; %s", move)
	case Overdue:
		return fmt.Sprintf("waited %s, more than %s; %s", secs(j.Waited), secs(d.boundOf(j)), move)
	default: // Cheapest, in one of two ways
	}
	if f.alone {
		return fmt.Sprintf("of all free hosts %s starts it soonest; %s", h, move)
	}
	return fmt.Sprintf("sooner on %s than waiting for a slot where its files are; %s", h, move)
}

// waitHolder leaves job i to a host that will have a slot.
func (d *decider) waitHolder(i, holder int, later, cost float64, now fit) {
	d.reserved[holder]++
	j := &d.fleet.Jobs[i]
	d.again(math.Min(d.boundOf(j)-j.Waited, math.Max(1, cost/2)))
	d.stay(i, WaitHolder, fmt.Sprintf("%s has its files and a slot in about %s; %s would have to move %s (%s, at today's load worth %s)",
		d.hosts[holder].Name, secs(later), d.hosts[now.host].Name, size(now.missing), secs(now.fetch), secs(cost)), nil)
}

// waitFor explains why no host can take job i now.
func (d *decider) waitFor(i int, hosts []int) {
	j := &d.fleet.Jobs[i]
	var off, full, lacking []string
	var urgent []snapshot.ID
	soonest, until := -1, 0.0
	for _, h := range hosts {
		host := &d.hosts[h]
		f := d.fit(j, h)
		switch {
		case host.Off != "":
			off = append(off, host.Name+" is "+host.Off)
		case len(f.upload) > 0:
			lacking = append(lacking, host.Name)
			urgent = append(urgent, f.upload...)
		default:
			full = append(full, host.Name)
			if w := d.wait(h); soonest < 0 || w < until {
				soonest, until = h, w
			}
		}
	}
	if soonest >= 0 {
		// It will take the next slot there; whoever comes after it waits longer.
		d.reserved[soonest]++
	}
	slices.Sort(urgent)
	urgent = slices.Compact(urgent)
	switch {
	case len(hosts) == 0 && len(j.Tags) > 0:
		d.stay(i, WaitHost, fmt.Sprintf("no host has the tags %s", strings.Join(j.Tags, ", ")), nil)
	case len(hosts) == 0 && j.Pool != "":
		d.stay(i, WaitHost, "no host of pool "+j.Pool+" is there", nil)
	case len(off) == len(hosts):
		text := "no host is there"
		if len(off) > 0 {
			text = some(off)
		}
		d.stay(i, WaitHost, text, nil)
	case len(lacking) > 0 && d.anyFree(lacking):
		text := some(lacking) + " could run it but lacks files that are not uploaded yet"
		if len(full) > 0 {
			text += "; " + some(full) + " has them and is full"
		}
		d.again(1)
		d.stay(i, WaitUpload, text, urgent)
	case len(full) == 0:
		d.stay(i, WaitUpload, "its files are not uploaded yet, and no host that may run it has them", urgent)
	default:
		d.stay(i, WaitSlot, some(full)+" could run it and is full", urgent)
	}
}

// waitInLine is for jobs too far behind to be compared now.
func (d *decider) waitInLine(i int) {
	d.stay(i, WaitSlot, fmt.Sprintf("more than %d jobs are ahead", d.p.Window), nil)
}

// stay records that job i waits.
func (d *decider) stay(i int, c Code, reason string, urgent []snapshot.ID) {
	j := &d.fleet.Jobs[i]
	d.done[i] = true
	w := Waiting{Job: j.ID, Code: c, Reason: reason, Urgent: urgent}
	if len(d.out.Wait) < explained {
		w.Candidates = d.candidates(j, -1)
	}
	d.out.Wait = append(d.out.Wait, w)
}

// again asks for another decision after s seconds at the latest.
func (d *decider) again(s float64) {
	s = math.Max(s, 0.1)
	if d.out.Again == 0 || s < d.out.Again {
		d.out.Again = s
	}
}

func (d *decider) anyFree(names []string) bool {
	for i := range d.hosts {
		if d.hosts[i].Free > 0 && slices.Contains(names, d.hosts[i].Name) {
			return true
		}
	}
	return false
}

// explained is how many waiting jobs get their hosts listed: the next ones in line.
const explained = 32

// candidates lists the hosts that were looked at, the best first, chosen always
// among them.
func (d *decider) candidates(j *Job, chosen int) []Candidate {
	limit := min(len(d.hosts), 2*d.p.Candidates)
	fits := make([]fit, 0, limit+1)
	allowed := d.allowed(j)
	if chosen >= limit {
		fits = append(fits, d.explain(j, chosen, allowed))
	}
	for h := range limit {
		fits = append(fits, d.explain(j, h, allowed))
	}
	slices.SortStableFunc(fits, func(a, b fit) int {
		if c := cmp.Compare(first(a.host != chosen), first(b.host != chosen)); c != 0 {
			return c
		}
		return cmp.Or(cmp.Compare(first(a.excluded != ""), first(b.excluded != "")), cmp.Compare(a.fetch, b.fetch))
	})
	out := make([]Candidate, 0, min(len(fits), d.p.Candidates))
	for _, f := range fits[:min(len(fits), d.p.Candidates)] {
		out = append(out, Candidate{Host: d.hosts[f.host].Name, Missing: f.missing, Seconds: f.fetch, Excluded: f.excluded})
	}
	return out
}

// explain is fit with every reason for an exclusion, and with the time until the
// host has a slot.
func (d *decider) explain(j *Job, h int, allowed []int) fit {
	host := &d.hosts[h]
	f := d.fit(j, h)
	switch {
	case host.Pool != j.Pool && host.Pool == "":
		return fit{host: h, excluded: "has no runners of pool " + j.Pool}
	case host.Pool != j.Pool:
		return fit{host: h, excluded: "takes only jobs of pool " + host.Pool}
	}
	if missing := without(j.Tags, host.Tags); len(missing) > 0 {
		return fit{host: h, excluded: "lacks the tags " + strings.Join(missing, ", ")}
	}
	if f.excluded == "" && !among(allowed, h) {
		f.excluded = "failed this job before"
	}
	if f.excluded == "" && host.Free <= 0 {
		w := d.wait(h)
		if math.IsInf(w, 1) {
			f.excluded = "has no free slot"
		} else {
			f.fetch += w
		}
	}
	return f
}

func without(want, have []string) []string {
	var out []string
	for _, w := range want {
		if !slices.Contains(have, w) {
			out = append(out, w)
		}
	}
	return out
}

func first(b bool) int {
	if b {
		return 1
	}
	return 0
}

// some names a few of many.
func some(names []string) string {
	const n = 4
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}

func secs(s float64) string {
	switch {
	case s < 10:
		return fmt.Sprintf("%.1f s", s)
	case s < 600:
		return fmt.Sprintf("%.0f s", s)
	}
	return fmt.Sprintf("%.0f min", s/60)
}

func size(b int64) string {
	switch {
	case b < 1<<10:
		return fmt.Sprintf("%d B", b)
	case b < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(b)/(1<<10))
	case b < 1<<30:
		return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20))
	}
	return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
}
