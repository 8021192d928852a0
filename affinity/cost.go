package affinity

import (
	"math"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// fit is how one host suits one job.
type fit struct {
	host    int
	missing int64
	fetch   float64 // seconds from the slot to the start
	// complete says that nothing has to move; seed is the one to start from.
	complete bool
	seed     snapshot.ID
	excluded string
	// alone says that no host has everything, so that there is none to wait for.
	alone bool
	// upload are the snapshots that only their holders have.
	upload []snapshot.ID
}

// fit evaluates host h for j, whose tags it has.
func (d *decider) fit(j *Job, h int) fit {
	host := &d.hosts[h]
	f := fit{host: h}
	if host.Off != "" {
		f.excluded = host.Off
		return f
	}
	if len(j.Inputs) > 0 {
		return d.need(f, j.Inputs)
	}
	return d.seeded(f, j.Seeds[host.Fingerprint])
}

// need evaluates chains that must all be there.
func (d *decider) need(f fit, chains []Chain) fit {
	host := &d.hosts[f.host]
	m := moving{host: host, several: len(chains) > 1}
	for _, c := range chains {
		f.missing += m.chain(c)
	}
	f.upload = m.upload
	if len(f.upload) > 0 {
		f.excluded = "lacks files that are not uploaded yet"
		return f
	}
	f.complete = f.missing == 0 && m.eta == 0 && d.heldAll(host, chains)
	f.fetch = m.eta
	if !f.complete {
		f.fetch = math.Max(m.eta, d.seconds(host, f.missing))
	}
	return f
}

// heldAll reports whether host has every chain's snapshot: a layer of no bytes
// has to be fetched like any other.
func (d *decider) heldAll(host *Host, chains []Chain) bool {
	for _, c := range chains {
		if len(c) > 0 && !host.Has[c[0].ID] {
			return false
		}
	}
	return true
}

// seeded evaluates chains of which one is good enough: one that is there, else
// the best that can be fetched in less time than starting cold costs.
func (d *decider) seeded(f fit, seeds []Chain) fit {
	host := &d.hosts[f.host]
	for _, c := range seeds {
		if len(c) > 0 && host.Has[c[0].ID] {
			f.complete, f.seed = true, c[0].ID
			return f
		}
	}
	for _, c := range seeds {
		g := d.need(fit{host: f.host}, []Chain{c})
		if g.excluded == "" && g.fetch < d.p.ColdStart && len(c) > 0 {
			g.seed = c[0].ID
			return g
		}
	}
	if len(seeds) > 0 {
		f.fetch = d.p.ColdStart
	}
	return f
}

// seconds estimates a fetch: the host's own rate shared with what it fetches
// already, or the store's shared with everybody who fetches, whichever is less.
func (d *decider) seconds(h *Host, bytes int64) float64 {
	rate := h.Rate
	if rate <= 0 {
		rate = d.p.Rate
	}
	rate = math.Min(rate/float64(h.Fetching+1), d.p.StoreRate/float64(d.fetching+1))
	return d.p.Overhead + float64(bytes)/rate
}

// wait estimates when host h has a slot for one more job than wait for it already.
func (d *decider) wait(h int) float64 {
	host := &d.hosts[h]
	k := d.reserved[h]
	if k < host.Free {
		return 0
	}
	k -= max(host.Free, 0)
	r := slices.Clone(host.Residual)
	slices.Sort(r)
	if len(r) == 0 {
		return math.Inf(1)
	}
	// Beyond the last one that runs, the queue goes round once more.
	rounds := float64(k / len(r))
	return r[k%len(r)] + rounds*d.p.Service
}
