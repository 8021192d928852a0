package agent

import (
	"context"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// Scrub says how the agent looks for damage in its store. The zero value does not.
type Scrub struct {
	// Interval is how often everything is read; 0: never.
	Interval time.Duration
	// Rate is in bytes per second; 0: as fast as it goes.
	Rate int64
	// Every is how often it is looked whether something is due. Default: a hundredth
	// of Interval, a minute to an hour.
	Every time.Duration
}

func (s Scrub) withDefaults() Scrub {
	if s.Every <= 0 {
		s.Every = min(max(s.Interval/100, time.Minute), time.Hour)
	}
	return s
}

// scrubs reads what the store has, over and over, until ctx ends. What a layer's
// last reading was is in the store, so a restart does not begin anew.
func (a *Agent) scrubs(ctx context.Context) {
	// What is suspect after a crash is wanted soon.
	wait := min(a.scrubbing().Every, time.Minute)
	for pause.For(ctx, a.jitter(wait)) == nil {
		o := a.scrubbing()
		if o.Interval > 0 {
			a.scrub(ctx, o)
		}
		wait = o.Every
	}
}

// scrub reads what is due once, and tells the coordinator what came and went.
func (a *Agent) scrub(ctx context.Context, o Scrub) {
	before := usableIn(a.o.Store.List())
	r, err := a.o.Store.Scrub(ctx, store.ScrubOptions{
		Before: a.o.Now().Add(-o.Interval), Rate: o.Rate,
		Open: a.fetch.Open, Size: a.o.Blobs.Stat,
	})
	after := usableIn(a.o.Store.List())
	for id := range before {
		if _, ok := after[id]; !ok {
			a.hold(api.Holding{ID: id, Gone: true})
		}
	}
	for id, in := range after {
		if _, ok := before[id]; ok {
			continue
		}
		a.hold(holding(&in))
		if in.State != store.Durable {
			a.later(func() { a.pack(ctx, id) })
		}
	}
	if len(before) != len(after) {
		a.beatNow()
	}
	if err != nil {
		if ctx.Err() == nil {
			a.log.Error("scrub", "err", err)
		}
		return
	}
	if r.Layers > 0 {
		a.log.Info("scrub", "layers", r.Layers, "bytes", size(r.Bytes), "damages", len(r.Damages), "left", r.Left(),
			"suspect", len(r.Suspect), "restored", len(r.Restored))
	}
}

func usableIn(list []store.Info) map[snapshot.ID]store.Info {
	out := map[snapshot.ID]store.Info{}
	for _, in := range list {
		if in.State.Usable() {
			out[in.ID] = in
		}
	}
	return out
}
