package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// maxIndexBytes bounds what is fetched before anything of it can be checked.
const maxIndexBytes = 4 << 30

// importing is an Import under way. err may be read when done is closed.
type importing struct {
	id   snapshot.ID
	base snapshot.ID
	done chan struct{}
	err  error
}

// Import makes a snapshot that another host packed usable here, on its base, which
// must be held and packed. open reads blobs; nothing of what it gives is trusted:
// the index must have its digest, the changes must make the manifest that was
// asked for, each chunk must have its keyed digest. m counts the content bytes
// that are written.
//
// Of a snapshot that is held nothing is done, and imports of one id at the same
// time are one. It ends with the first caller's context; the others then go on.
// An imported layer is Durable from the start: it came from where others get it.
//
// Crash states, in order:
//  1. while the driver unpacks, and index and manifest are written: a directory and
//     files of no row; Open removes them.
//  2. sources written: one more.
//  3. after the row: held. If spec.Later was set, import_later.go says more.
func (s *Store) Import(ctx context.Context, spec ImportSpec, open OpenBlobFunc, m *view.Meter) error {
	return s.ImportChain(ctx, []ImportSpec{spec}, open, m)
}

// ImportChain is Import of the last one of a chain, each on the one before, without
// those: of a chain that is only fetched for its last tree nothing is fetched or
// written that a later layer replaces or deletes. What comes of it is one layer on the
// base of the first, with an index of its own, and no other snapshot of the chain is held
// afterwards that was not before. One that is wanted later is imported as any other, and
// what the held one has of its content is copied from there.
//
// It begins after the last one of the chain that is held and unpacked.
func (s *Store) ImportChain(ctx context.Context, chain []ImportSpec, open OpenBlobFunc, m *view.Meter) error {
	if err := checkChain(chain); err != nil {
		return fmt.Errorf("import: %w", err)
	}
	tip := &chain[len(chain)-1]
	for {
		below := s.notHeld(chain[:len(chain)-1])
		bottom := tip.Base
		if len(below) > 0 {
			bottom = below[0].Base
		}
		im, mine, err := s.enterImport(tip, bottom)
		if err != nil {
			return fmt.Errorf("import: %w", err)
		}
		if im == nil {
			return nil
		}
		if mine {
			im.err = s.importMine(ctx, tip, below, open, m)
			s.mu.Lock()
			delete(s.imports, tip.ID)
			s.mu.Unlock()
			close(im.done)
			return im.err
		}
		select {
		case <-im.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		// The other's end or quarrel with its network is not ours: look again.
		if im.err != nil && !errors.Is(im.err, context.Canceled) && !errors.Is(im.err, context.DeadlineExceeded) {
			return im.err
		}
	}
}

// enterImport returns nil if there is nothing to do. bottom is what the import will
// stand on.
func (s *Store) enterImport(spec *ImportSpec, bottom snapshot.ID) (im *importing, mine bool, err error) {
	for _, id := range append([]snapshot.ID{spec.ID}, spec.Parents...) {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return nil, false, err
		}
	}
	if len(spec.DomainKey) == 0 {
		return nil, false, errNoKey
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, errClosed
	}
	if im, ok := s.imports[spec.ID]; ok {
		return im, false, nil
	}
	if l, err := s.usableLocked(spec.ID); err == nil {
		if !l.info.Manifest.IsZero() && l.info.Manifest != spec.Manifest {
			return nil, false, &snapshot.CorruptError{
				What: "snapshot", Name: string(spec.ID),
				Why: fmt.Sprintf("its manifest is %s here, want %s", l.info.Manifest, spec.Manifest),
			}
		}
		return nil, false, nil
	}
	im = &importing{id: spec.ID, base: bottom, done: make(chan struct{})}
	s.imports[spec.ID] = im
	return im, true, nil
}

func (s *Store) importMine(ctx context.Context, spec *ImportSpec, below []ImportSpec, open OpenBlobFunc, m *view.Meter) error {
	end, err := s.begin(spec.ID, "import")
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	defer end()
	defer s.named.release(spec.ID)
	if err := s.dropDoubtful(ctx, spec.ID); err != nil {
		return fmt.Errorf("import %s: %w", spec.ID, err)
	}
	if err := s.importLayer(ctx, spec, below, open, m); err != nil {
		return fmt.Errorf("import %s: %w", spec.ID, err)
	}
	return nil
}

// dropDoubtful removes a suspect layer, and the suspects that stand on it, to make
// room for a good copy.
func (s *Store) dropDoubtful(ctx context.Context, id snapshot.ID) error {
	for {
		s.mu.Lock()
		l, ok := s.layers[id]
		if !ok || l.info.State.Usable() {
			s.mu.Unlock()
			return nil
		}
		top := s.topLocked(l)
		usable := top.info.State.Usable()
		s.mu.Unlock()
		if usable {
			return fmt.Errorf("%w: %s stands on a copy that is %s", snapshot.ErrBusy, top.info.ID, l.info.State)
		}
		if err := s.remove(ctx, top, true); err != nil {
			return err
		}
		if top == l {
			return nil
		}
	}
}

// topLocked returns a layer on which nothing stands, above or equal to l.
func (s *Store) topLocked(l *layer) *layer {
	for {
		what, on := s.standingLocked(l)
		if what != "layer" {
			return l
		}
		l = s.layers[on]
	}
}

func (s *Store) importLayer(ctx context.Context, spec *ImportSpec, below []ImportSpec, open OpenBlobFunc, m *view.Meter) error {
	b, open, done, err := s.bringInParts(ctx, spec, below, open)
	if err != nil {
		return err
	}
	defer done()
	if b != nil {
		return s.importInParts(ctx, b, open, m)
	}
	if b, err = s.bring(ctx, spec, below, open); err != nil {
		return err
	}
	defer b.drop()
	aside := make(chan error, 1)
	go func() { aside <- s.keepAside(ctx, b) }()
	var place *view.Layer
	var t *snapshot.Manifest
	err = s.twice(ctx, b.spec.ID, func() (err error) {
		place, t, err = s.unpackImport(ctx, b, open, m)
		return err
	})
	err = errors.Join(err, <-aside)
	l := s.importedLayer(b)
	l.standFor(b)
	return s.endImport(ctx, l, place, err, func() error { return s.keepImported(ctx, l, b, place, t) })
}

// endImport keeps what was unpacked, if err is nil; else, and if that fails, nothing of
// it is left.
func (s *Store) endImport(ctx context.Context, l *layer, place *view.Layer, err error, keep func() error) error {
	if err == nil {
		fail.Point("store.import.unpacked")
		err = keep()
	}
	if err != nil {
		s.removeFiles(l)
		if place != nil {
			err = errors.Join(err, s.driver.Remove(context.WithoutCancel(ctx), place))
		}
		return err
	}
	s.tell()
	return nil
}

// unpackImport fetches content and has the driver store and show it. It returns the
// tree with its sources.
func (s *Store) unpackImport(ctx context.Context, b *brought, open OpenBlobFunc, m *view.Meter) (*view.Layer, *snapshot.Manifest, error) {
	have := previous(b.base)
	if t := s.alike(ctx, b); t != nil {
		have = firstOf(previous(t), have)
	}
	o := pack.ExtractOptions{Key: b.spec.DomainKey, Workers: s.o.Workers, Open: open, Previous: have}
	if b.base != nil {
		o.Base = func(_ int, fn func(e *snapshot.Entry) error) error { return view.TreeOf(b.base)(fn) }
	}
	if u, ok := s.driver.(view.Unpacker); ok {
		var t *snapshot.Manifest
		place, err := u.UnpackShown(ctx, view.UnpackSpec{
			ID: b.spec.ID, Base: b.basePlace, Changes: b.ix.Changes, Meter: m, Later: b.spec.Later,
			FillPieces: func(ctx context.Context, write view.PiecesFunc) error {
				o.Pieces = write
				return pack.Extract(ctx, b.ix, o, nil)
			},
			Tree: func() (_ *snapshot.Manifest, err error) {
				if t, err = b.located(); err == nil {
					b.sources = s.encodeBeside(b.spec.Manifest, t)
				}
				return t, err
			},
		})
		return place, t, err
	}
	place, err := s.driver.Unpack(ctx, b.spec.ID, b.basePlace, b.ix.Changes, func(ctx context.Context, write view.WriteFunc) error {
		return pack.Extract(ctx, b.ix, o, write)
	}, m)
	if err != nil {
		return nil, nil, err
	}
	s.driver.Locate(place, b.ix.Changes)
	t, err := b.located()
	if err != nil {
		return nil, nil, errors.Join(err, s.driver.Remove(context.WithoutCancel(ctx), place))
	}
	return place, t, nil
}

// laterHere reports whether what is imported is synced later: if that is wanted, and
// the driver can, and it can be known after a crash whether the kernel is the same.
func (s *Store) laterHere(spec *ImportSpec) bool {
	_, ok := s.driver.(view.Unpacker)
	return spec.Later && ok && s.o.BootID != ""
}

// abandoned reports whether what the driver may have of id belongs to nothing. The
// caller has begun an operation on id, so that stays so.
func (s *Store) abandoned(id snapshot.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.views[id] == nil && s.layers[id] == nil
}

func (s *Store) importBase(ctx context.Context, spec *ImportSpec) (*snapshot.Manifest, *view.Layer, error) {
	place, err := s.importPlace(ctx, spec)
	if err != nil || place == nil {
		return nil, nil, err
	}
	m, err := s.Tree(ctx, spec.Base)
	return m, place, err
}

// importPlace is where the base is, once views may stand on it for good.
func (s *Store) importPlace(ctx context.Context, spec *ImportSpec) (*view.Layer, error) {
	if spec.Base == "" {
		return nil, nil //nolint:nilnil // nothing is nowhere
	}
	s.mu.Lock()
	l, err := s.unpackedLocked(spec.Base)
	packed := err == nil && !l.info.Index.IsZero()
	s.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	if !bytes.Equal(l.key, spec.DomainKey) {
		return nil, fmt.Errorf("base %s belongs to another domain", spec.Base)
	}
	if !packed {
		if _, err := s.Packed(ctx, spec.Base); err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
	}
	if !spec.Later {
		if err := s.SyncLater(ctx, spec.Base); err != nil {
			return nil, fmt.Errorf("base: %w", err)
		}
	}
	return l.place(), nil
}
