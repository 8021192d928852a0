package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// Reason is why a layer was evicted or why it stays. The list is closed.
type Reason string

// Why a layer goes.
const (
	EvictDurable Reason = "evict-durable" // the blob store has all of it; not used for longest
	EvictDamaged Reason = "evict-damaged" // damaged here; a good copy is in the blob store, or was looked for in vain
	EvictBroken  Reason = "evict-broken"  // holds what can't be part of a snapshot
)

// Why a layer stays.
const (
	KeptOnlyCopy    Reason = "kept-only-copy"   // it, or what it stands on, is not in the blob store yet
	KeptUnconfirmed Reason = "kept-unconfirmed" // the blob store does not say that it has all of it
	KeptUnder       Reason = "kept-under"       // a layer that stays stands on it
	KeptView        Reason = "kept-view"        // a job runs on it
	KeptMount       Reason = "kept-mount"       // somebody looks at it
	KeptImport      Reason = "kept-import"      // what is being fetched stands on it
	KeptHold        Reason = "kept-hold"        // a job that was announced needs it
	KeptPinned      Reason = "kept-pinned"      // a person said so
	KeptReport      Reason = "kept-report"      // its job's end is not reported yet
	KeptRecent      Reason = "kept-recent"      // of use, or used not long enough ago
	KeptError       Reason = "kept-error"       // deleting it did not work
)

// doubtfulFor is how long a damaged layer without another copy is kept for people.
const doubtfulFor = 7 * 24 * time.Hour

// EvictSpec says how much is to be evicted.
type EvictSpec struct {
	// Enough is asked before each layer with the bytes freed so far, and ends it.
	// nil: all that may go goes.
	Enough func(freed int64) bool
	// Before keeps what was used since; zero keeps nothing for that.
	Before time.Time
	// Useless takes only what no job can use: broken and damaged layers.
	Useless bool
	// Damaged also takes damaged layers of which there is no other copy, however new.
	Damaged bool
	// Confirm is asked before a layer goes of which the blob store is to have a good copy,
	// whether it has all of these blobs now. nil: the store's rows are believed.
	Confirm func(ctx context.Context, id snapshot.ID, blobs []Blob) error
	// DryRun only says what would go.
	DryRun bool
}

// Eviction is one layer that went, or would go.
type Eviction struct {
	ID     snapshot.ID `json:"id"`
	Reason Reason      `json:"reason"`
	Bytes  int64       `json:"bytes"` // about what that frees
	Used   time.Time   `json:"used"`  // when it was last of use
}

// Kept sums up the layers that stay for one reason.
type Kept struct {
	Reason  Reason      `json:"reason"`
	Layers  int         `json:"layers"`
	Bytes   int64       `json:"bytes"`
	Example snapshot.ID `json:"example"`      // the largest of them
	By      snapshot.ID `json:"by,omitempty"` // what keeps it: a view, a layer
	Text    string      `json:"text,omitempty"`
}

// EvictReport tells what Evict did.
type EvictReport struct {
	Evicted []Eviction `json:"evicted"`
	Freed   int64      `json:"freed"` // about
	// Kept is why nothing more could go, most bytes first. Empty if it was enough.
	Kept []Kept `json:"kept,omitempty"`
	// Unconfirmed are durable layers of which the blob store lacks something.
	Unconfirmed []snapshot.ID `json:"unconfirmed,omitempty"`
}

// Evict removes layers until it is enough: what is of no use first, then durable
// layers on which nothing stands, those first that were not used for longest, and
// of those about equally old the largest. What stood below a layer may go after it.
// A layer of which the blob store does not have all, with all that it stands on, is
// never touched, nor is one that a view, a mount, an import, a hold or a pin needs.
// ctx's end is an error; the report then says what was done by then.
//
// Crash states: each layer goes by itself, as in Remove.
func (s *Store) Evict(ctx context.Context, spec EvictSpec) (EvictReport, error) {
	var r EvictReport
	p := s.planEviction(spec)
	for first := true; ; first = false {
		if spec.Enough != nil && spec.Enough(r.Freed) {
			return r, nil
		}
		if c, ok := s.driver.(view.Cacher); ok && first && !spec.DryRun && !spec.Useless {
			c.DropCached()
		}
		if ctx.Err() != nil {
			return r, fmt.Errorf("evict: %w", context.Cause(ctx))
		}
		c := p.next()
		if c == nil {
			break
		}
		why, err := s.evict(ctx, c, &spec)
		switch {
		case err == nil:
			r.Evicted = append(r.Evicted, Eviction{ID: c.id, Reason: c.reason, Bytes: c.bytes, Used: c.used})
			r.Freed += c.bytes
			p.gone(c)
			continue
		case ctx.Err() != nil:
			return r, fmt.Errorf("evict: %w", context.Cause(ctx))
		case why == KeptUnconfirmed:
			r.Unconfirmed = append(r.Unconfirmed, c.id)
		case why == KeptError:
			s.log.Warn("a layer can't be evicted", "snapshot", c.id, "error", err)
		}
		p.stays(c, why, err)
	}
	r.Kept = p.kept()
	return r, nil
}

// evict removes one layer.
func (s *Store) evict(ctx context.Context, c *candidate, spec *EvictSpec) (Reason, error) {
	if len(c.blobs) > 0 && spec.Confirm != nil {
		if err := spec.Confirm(ctx, c.id, c.blobs); err != nil {
			return KeptUnconfirmed, err
		}
	}
	if spec.DryRun {
		return "", nil
	}
	fail.Point("store.evict")
	err := s.removeID(ctx, c.id, c.reason != EvictDurable)
	switch {
	case err == nil:
	case errors.Is(err, snapshot.ErrBusy):
		return KeptUnder, err // somebody was faster
	case errors.Is(err, ErrOnlyCopy):
		return KeptOnlyCopy, err
	default:
		return KeptError, err
	}
	s.log.Info("evicted", "snapshot", c.id, "reason", string(c.reason), "bytes", c.bytes, "used", c.used)
	return "", nil
}

// Usage is about how many bytes the layers take, views that are open left out.
func (s *Store) Usage() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int64
	for _, l := range s.layers {
		n += s.freedLocked(l)
	}
	return n
}
