package affinity

import (
	"cmp"
	"math"
)

// overdue is the first pass: who waited past the bound takes the best free host.
func (d *decider) overdue(order []int) {
	for _, i := range order {
		j := &d.fleet.Jobs[i]
		if j.Waited < d.boundOf(j) {
			continue
		}
		if best, ok := d.best(j, d.allowed(j)); ok {
			code := Overdue
			if best.complete && (len(j.Inputs) > 0 || best.seed != "") {
				code = Continuation
			}
			d.assign(i, best, code)
		}
	}
}

// continuations is the second pass: whoever is complete on a host with a free
// slot starts there. It goes before everything else because a slot that such a
// job does not get is one in which somebody else has to fetch.
func (d *decider) continuations(order []int) {
	for _, i := range order {
		j := &d.fleet.Jobs[i]
		if d.done[i] || d.open == 0 {
			continue
		}
		best, ok := fit{}, false
		for _, h := range d.holdersOf(j) {
			if d.hosts[h].Free <= 0 || !among(d.allowed(j), h) {
				continue
			}
			f := d.fit(j, h)
			if f.excluded == "" && f.complete && (!ok || d.better(f, best)) {
				best, ok = f, true
			}
		}
		if ok {
			d.assign(i, best, Continuation)
		}
	}
}

// best finds the host with a free slot on which j starts soonest.
func (d *decider) best(j *Job, hosts []int) (fit, bool) {
	best, ok := fit{}, false
	for _, h := range hosts {
		if d.hosts[h].Free <= 0 {
			continue
		}
		if f := d.fit(j, h); f.excluded == "" && (!ok || d.better(f, best)) {
			best, ok = f, true
		}
	}
	return best, ok
}

// better orders fits: sooner, then emptier, then by name, so that equal fleets
// give equal decisions.
func (d *decider) better(a, b fit) bool {
	x, y := &d.hosts[a.host], &d.hosts[b.host]
	return cmp.Or(
		cmp.Compare(a.fetch, b.fetch), cmp.Compare(a.missing, b.missing),
		cmp.Compare(load(x), load(y)), cmp.Compare(x.Name, y.Name)) < 0
}

// load is the share of a host's slots that are taken.
func load(h *Host) float64 {
	if h.Slots == 0 {
		return 1
	}
	return 1 - float64(h.Free)/float64(h.Slots)
}

// compare is the last pass: seconds against seconds for the first of the queue.
func (d *decider) compare(order []int) {
	looked := 0
	for _, i := range order {
		if d.done[i] {
			continue
		}
		looked++
		if looked > d.p.Window {
			d.waitInLine(i)
			continue
		}
		d.decide(i)
	}
}

// decide compares starting job i now with waiting for a host that has its files.
func (d *decider) decide(i int) {
	j := &d.fleet.Jobs[i]
	hosts := d.allowed(j)
	if d.open == 0 && len(hosts) > 0 && len(d.out.Wait) >= explained {
		// There is nothing to compare, and enough was explained.
		d.stay(i, WaitSlot, "every host is full", nil)
		return
	}
	now, free := d.best(j, hosts)
	if !free {
		d.waitFor(i, hosts)
		return
	}
	holder, later := -1, math.Inf(1)
	for _, h := range d.holdersOf(j) {
		if d.hosts[h].Free > 0 || !among(hosts, h) {
			continue
		}
		f := d.fit(j, h)
		if f.excluded != "" || !f.complete {
			continue
		}
		if w := d.wait(h); w < later {
			holder, later = h, w
		}
	}
	price := 1.0
	if d.slots > 0 {
		price += d.p.Lambda*float64(d.busy)/float64(d.slots) + float64(len(d.fleet.Jobs))/float64(d.slots)
	}
	now.alone = holder < 0
	cost := now.fetch * price
	if cost <= later || j.Waited >= d.boundOf(j) {
		d.assign(i, now, d.codeOf(j, now, hosts))
		return
	}
	d.waitHolder(i, holder, later, cost, now)
}

// codeOf says why best was chosen.
func (d *decider) codeOf(j *Job, best fit, hosts []int) Code {
	if len(j.Inputs) == 0 && len(j.Seeds[d.hosts[best.host].Fingerprint]) == 0 {
		return NoInput
	}
	could := 0
	for _, h := range hosts {
		if d.hosts[h].Off == "" {
			could++
		}
	}
	if could == 1 {
		return OnlyHost
	}
	return Cheapest
}
