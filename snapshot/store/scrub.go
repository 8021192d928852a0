package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/roost-ci/roost/internal/pause"
	"github.com/roost-ci/roost/snapshot"
)

// Damage is one object that was found not to be what it should be.
type Damage struct {
	Layer snapshot.ID `json:"layer"`
	// What is index, manifest, pack, sources, content, image, names or layer.
	What string `json:"what"`
	Name string `json:"name"`
	Why  string `json:"why"`
	// From is what it was repaired from, "" if it was not; then Left says why.
	From string `json:"from,omitempty"`
	Left string `json:"left,omitempty"`
}

// Where damaged objects are repaired from.
const (
	fromBlobStore = "blob store" // the very same blob
	fromFiles     = "files"      // made again from the layer's own files
	fromPacks     = "own packs"
	fromIndex     = "index" // computed from the index and the base
	fromManifest  = "manifest"
)

// ScrubOptions say what is read, how fast, and where good copies are.
type ScrubOptions struct {
	IDs    []snapshot.ID // nil: all
	Before time.Time     // only what was not made or read since, and what is suspect; zero: all
	Rate   int64         // bytes per second; 0: as fast as it goes
	// Open and Size ask the blob store; nil if there is none at hand.
	Open OpenBlobFunc
	Size func(ctx context.Context, blob snapshot.Digest) (int64, error)
	// NoRepair only looks. What is damaged is suspect all the same.
	NoRepair bool
	// Progress is told after each layer; may be nil.
	Progress func(ScrubProgress)
}

// ScrubProgress is how far a scrub has come.
type ScrubProgress struct {
	Done, Layers int
	Bytes        int64
	Damages      int
}

// ScrubReport tells what a scrub read and found.
type ScrubReport struct {
	Layers int   `json:"layers"` // read
	Bytes  int64 `json:"bytes"`
	// Unpacked layers have no digests yet and were not read.
	Unpacked int           `json:"unpacked"`
	Damages  []Damage      `json:"damages,omitempty"`
	Suspect  []snapshot.ID `json:"suspect,omitempty"`  // not usable, at the end
	Restored []snapshot.ID `json:"restored,omitempty"` // were suspect and are good
}

// Left counts the damages that are still there.
func (r *ScrubReport) Left() int {
	n := 0
	for _, d := range r.Damages {
		if d.From == "" {
			n++
		}
	}
	return n
}

// Scrub reads all that is stored of layers: index, manifest, list of sources, packs,
// names, and the content of every file, and compares it with the digests. What is
// damaged is repaired from another copy: blobs from the blob store or from the files,
// files from the packs, here or there. A layer with a damage that is left is
// suspect, and so is all that stands on it; one that was suspect and is found good
// is what it was. A damaged file makes its layer suspect until it is repaired, and
// what a job leaves that ran on it: it may have read the wrong bytes.
//
// The files that were damaged lie in bad/ for people to look at.
//
// Crash states: each repair is one file that is renamed into place, or bytes that
// are written over damaged ones while the row says suspect. It is begun again.
func (s *Store) Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error) {
	x := &scrubber{s: s, o: o, pace: newPacer(o.Rate, s.o.Now), packs: map[snapshot.Digest]bool{}}
	todo := x.plan()
	for i, l := range todo {
		if err := x.layer(ctx, l); err != nil {
			x.finish()
			return x.r, fmt.Errorf("scrub: snapshot %s: %w", l.info.ID, err)
		}
		if o.Progress != nil {
			o.Progress(ScrubProgress{Done: i + 1, Layers: len(todo), Bytes: x.pace.bytes, Damages: len(x.r.Damages)})
		}
	}
	x.finish()
	return x.r, nil
}

// scrubber is one run of Scrub.
type scrubber struct {
	s     *Store
	o     ScrubOptions
	r     ScrubReport
	pace  *pacer
	packs map[snapshot.Digest]bool // that were read
}

// plan lists the layers to read, a base before what stands on it.
func (x *scrubber) plan() []*layer {
	s := x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*layer
	for id, l := range s.layers {
		switch {
		case x.o.IDs != nil && !slices.Contains(x.o.IDs, id), l.info.State == Broken, l.removing:
		case l.info.Index.IsZero():
			x.r.Unpacked++
		case x.o.Before.IsZero(), l.due(x.o.Before):
			out = append(out, l)
		}
	}
	slices.SortFunc(out, bySeq)
	return out
}

// due reports whether l was not read since. A suspect layer is tried once in the life
// of a process and then as often as others.
func (l *layer) due(since time.Time) bool {
	if l.info.State == Suspect {
		return l.use.tried.Before(since)
	}
	return l.use.checked.Before(since) && l.info.Made.Before(since)
}

// finish lists what is suspect at the end.
func (x *scrubber) finish() {
	x.r.Bytes = x.pace.bytes
	for _, in := range x.s.List() {
		if in.State == Suspect && (x.o.IDs == nil || slices.Contains(x.o.IDs, in.ID)) {
			x.r.Suspect = append(x.r.Suspect, in.ID)
		}
	}
}

// layer reads one layer. The error is of the scrub, not of the layer.
func (x *scrubber) layer(ctx context.Context, l *layer) error {
	s := x.s
	defer s.reading()()
	release, err := s.hold(ctx, l.info.ID)
	if err != nil {
		return err
	}
	defer release()
	s.mu.Lock()
	l.use.tried = s.o.Now()
	held, in := s.layers[l.info.ID] == l && !l.removing, s.infoLocked(l)
	s.mu.Unlock()
	if !held || s.onUnusable(l) != "" {
		return nil // gone, or to be looked at when what it stands on is good
	}
	x.r.Layers++
	c := &checkup{x: x, l: l, in: in}
	if !c.good(ctx) && !c.goodAgain(ctx) {
		err = c.all(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil { // could not be looked at
		c.add(Damage{What: "layer", Name: string(in.ID), Why: err.Error(), Left: "it can't be read"})
	}
	x.r.Damages = append(x.r.Damages, c.found...)
	for _, d := range c.found {
		if d.From == "" {
			s.log.Error("damaged", "snapshot", in.ID, "what", d.What, "name", d.Name, "why", d.Why, "left", d.Left)
			s.fallen(ctx, l, fmt.Errorf("%s %q: %s", d.What, d.Name, d.Why))
			return nil
		}
		s.log.Warn("damaged, and repaired", "snapshot", in.ID, "what", d.What, "name", d.Name, "why", d.Why, "from", d.From)
	}
	if in.State == Suspect || c.fell {
		if err := x.restore(ctx, l); err != nil {
			return err
		}
	}
	return s.checkedNow(ctx, l)
}

// pacer keeps reading below a rate, over time.
type pacer struct {
	rate  int64
	now   func() time.Time
	began time.Time
	bytes int64
}

func newPacer(rate int64, now func() time.Time) *pacer {
	return &pacer{rate: rate, now: now, began: now()}
}

// took waits until n more bytes fit the rate.
func (p *pacer) took(ctx context.Context, n int64) error {
	p.bytes += n
	if p.rate <= 0 {
		return nil
	}
	due := time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second))
	wait := due - p.now().Sub(p.began)
	if wait < 10*time.Millisecond {
		if wait < -time.Second { // what was not used is not saved up
			p.began = p.began.Add(-wait)
		}
		return nil
	}
	return pause.For(ctx, wait)
}

// asCorrupt returns why err says that something is damaged, "" if it says another
// thing.
func asCorrupt(err error) string {
	var corrupt *snapshot.CorruptError
	if errors.As(err, &corrupt) {
		return corrupt.Why
	}
	return ""
}
