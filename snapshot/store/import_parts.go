package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// A large tree is imported as a small one is, but that no list of its entries is ever in
// memory: index and manifest come to their places first, and are read from there each
// time that somebody goes through the tree.

// An entry takes about this of an index: a file with content at most and, but for a tree
// of nothing else, what has none at least. Between them it is counted.
const (
	mostEntryBytes  = 40
	leastEntryBytes = 12
)

// bringInParts is bring of a large tree, whose index and manifest have their names
// when it returns. It is nil of a small one, of one that the driver can only show from
// memory, and of one whose indexes list it as only the whole tree makes sense of; then
// again is open for who brings the same indexes once more. done is to be called when all
// is over.
func (s *Store) bringInParts(ctx context.Context, spec *ImportSpec, below []ImportSpec, open OpenBlobFunc) (
	b *brought, again OpenBlobFunc, done func(), err error,
) {
	b = &brought{spec: *spec, asked: spec, below: below}
	b.spec.Later = s.laterHere(spec)
	if len(below) > 0 {
		b.spec.Base = below[0].Base
	}
	size := 0
	for _, c := range b.chain() {
		size += int(c.IndexBytes)
	}
	if _, ok := s.driver.(view.Streamer); !ok || !s.isLarge(b.spec.Base, size/leastEntryBytes) {
		return nil, open, func() {}, nil
	}
	if b.basePlace, err = s.importPlace(ctx, &b.spec); err != nil {
		return nil, nil, nil, err
	}
	chain, done, err := s.fetchChain(ctx, b.chain(), open)
	if err != nil {
		return nil, nil, nil, err
	}
	if !s.isLarge(b.spec.Base, size/mostEntryBytes) {
		n, err := countListed(chain)
		if err == nil && !s.isLarge(b.spec.Base, n) {
			err = errUnlike
		}
		if err != nil {
			return notInParts(chain, open, done, err)
		}
	}
	if err := s.treeOfChain(ctx, b, chain); err != nil {
		return notInParts(chain, open, done, err)
	}
	return b, open, done, nil
}

// notInParts is what bringInParts returns if it can't.
func notInParts(chain []fetchedFile, open OpenBlobFunc, done func(), err error) (*brought, OpenBlobFunc, func(), error) {
	if !errors.Is(err, errUnlike) {
		done()
		return nil, nil, nil, err
	}
	names := map[snapshot.Digest]string{}
	for _, f := range chain {
		names[f.spec.Index] = f.file.Name()
	}
	return nil, func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		if name, ok := names[d]; ok {
			if f, err := os.Open(name); err == nil {
				return &section{Reader: io.NewSectionReader(f, off, n), Closer: f}, nil
			}
		}
		return open(ctx, d, off, n)
	}, done, nil
}

// countListed counts the changes in indexes.
func countListed(chain []fetchedFile) (n int, err error) {
	for _, f := range chain {
		x, err := openIndexAt(f.file.Name(), f.spec.Index)
		if err != nil {
			return 0, err
		}
		n += x.Len()
		x.Close() //nolint:errcheck // only read
	}
	return n, nil
}

// treeOfChain makes and keeps the tree. errUnlike says that only the whole one can tell.
func (s *Store) treeOfChain(ctx context.Context, b *brought, chain []fetchedFile) (err error) {
	if b.parts, err = s.treeInParts(ctx, chain); err != nil {
		return err
	}
	defer b.parts.abort()
	if err = s.keepTree(ctx, b, chain); err == nil {
		err = s.checkListed(ctx, b)
	}
	if err != nil {
		s.removeFiles(&layer{info: Info{ID: b.spec.ID, Manifest: b.spec.Manifest, Index: b.spec.Index}})
	}
	return err
}

// fetchChain brings the indexes of a chain into temporary files, which are gone after
// done.
func (s *Store) fetchChain(ctx context.Context, chain []ImportSpec, open OpenBlobFunc) (out []fetchedFile, done func(), err error) {
	files := make([]*durable.File, len(chain))
	done = func() {
		for _, f := range files {
			if f != nil {
				f.Abort()
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullers)
	for i := range chain {
		g.Go(func() (err error) {
			files[i], err = s.fetchIndexFile(ctx, &chain[i], open)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		done()
		return nil, nil, err
	}
	for i := range chain {
		out = append(out, fetchedFile{&chain[i], files[i]})
	}
	return out, done, nil
}

// keepTree puts manifest and index where they belong. That of a chain is made.
func (s *Store) keepTree(ctx context.Context, b *brought, chain []fetchedFile) error {
	d := b.spec.Manifest
	if err := b.parts.write(ctx, s, d); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := fileDigest(s.manifestPath(d), "manifest", d); err != nil {
		return err
	}
	b.ix, b.where = b.parts.ix, &pack.Places{}
	for i := len(b.parts.tables) - 1; i >= 0; i-- {
		b.where.Add(b.parts.tables[i], nil)
	}
	b.file = chain[0].file
	if len(chain) > 1 {
		newest := make([]*pack.Index, 0, len(chain))
		for i := range chain {
			newest = append(newest, b.parts.tables[len(chain)-1-i])
		}
		if err := s.foldInParts(ctx, b, newest); err != nil {
			return fmt.Errorf("index: %w", err)
		}
	}
	b.parts.tables = nil
	if err := b.file.Commit(s.indexPath(b.spec.Index)); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// foldInParts is fold, and writes the index.
func (s *Store) foldInParts(ctx context.Context, b *brought, newest []*pack.Index) error {
	st, err := pack.NewStream(s.encoder(b.spec.DomainKey, b.where.Find, nil), 0)
	if err != nil {
		return err
	}
	defer st.Close()
	most := s.part(partEntries)
	part := make([]snapshot.Change, 0, most)
	flush := func() error {
		err := st.Add(ctx, part)
		clear(part)
		part = part[:0]
		return err
	}
	err = s.eachDiffering(ctx, b, func(ch *snapshot.Change) error {
		part = append(part, *ch)
		if len(part) < most {
			return nil
		}
		return flush()
	})
	if err == nil {
		err = flush()
	}
	if err != nil {
		return err
	}
	ix, _, err := st.Finish(ctx)
	if err != nil {
		return err
	}
	own := ownPacks(newest...)
	for i := range ix.Packs {
		ix.Packs[i].Own = own[ix.Packs[i].Digest]
	}
	ix.Base, ix.Manifest = newest[len(newest)-1].Base, b.spec.Manifest
	b.ix, b.kept = ix, keptOf(ix, newest) // before chunks are let go of
	b.file, b.spec.Index, b.spec.IndexBytes, err = s.draftIndex(func(w *bufio.Writer) (snapshot.Digest, error) {
		return st.WriteIndex(w, ix)
	})
	return err
}

// ownPacks has the packs that one of the indexes says are its own.
func ownPacks(ixs ...*pack.Index) map[snapshot.Digest]bool {
	own := map[snapshot.Digest]bool{}
	for _, ix := range ixs {
		for _, p := range ix.Packs {
			own[p.Digest] = own[p.Digest] || p.Own
		}
	}
	return own
}

// eachDiffering calls fn with what tree.Diff says of the base and the tree of b.
func (s *Store) eachDiffering(ctx context.Context, b *brought, fn func(ch *snapshot.Change) error) error {
	touched := map[string]bool{}
	if b.spec.Base != "" {
		err := s.eachBeside(ctx, b, func(ch *snapshot.Change, same bool) error {
			if !same && ch.Entry.Link != "" {
				touched[ch.Entry.Link] = true
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.eachBeside(ctx, b, func(ch *snapshot.Change, same bool) error {
		if same && !touched[ch.Entry.Link] {
			return nil
		}
		return fn(ch)
	})
}

// eachBeside calls fn with each entry of the tree of b, and whether it is as in the
// base, and with the deletion of what only the base has.
func (s *Store) eachBeside(ctx context.Context, b *brought, fn func(ch *snapshot.Change, same bool) error) error {
	var base beside
	if b.spec.Base != "" {
		t, err := s.openBase(ctx, b.spec.Base)
		if err != nil {
			return err
		}
		defer t.close()
		base.t = t
		if err := base.step(); err != nil {
			return err
		}
	}
	gone := func(c *compared) error { return fn(&c.ch, false) }
	err := s.treeOf(ctx, b.spec.Manifest)(func(e *snapshot.Entry) error {
		if err := base.before(e.Path, gone); err != nil {
			return err
		}
		same := false
		if base.more && base.e.Path == e.Path {
			same = base.e.Equal(e)
			if err := base.pass(e.Type); err != nil {
				return err
			}
		}
		return fn(&snapshot.Change{Entry: *e}, same)
	})
	if err != nil {
		return err
	}
	return base.rest(gone)
}

// openBase begins to read the tree of a layer that is held.
func (s *Store) openBase(ctx context.Context, id snapshot.ID) (*treeFile, error) {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return s.openTree(ctx, l)
}

// eachListed calls fn with each entry of the tree of b, which has a Source if it is the
// base's, and says whether the index lists it: then it is unpacked.
func (s *Store) eachListed(ctx context.Context, b *brought, fn func(e *snapshot.Entry, listed bool) error) error {
	if b.spec.Base == "" {
		return s.treeOf(ctx, b.spec.Manifest)(func(e *snapshot.Entry) error { return fn(e, true) })
	}
	x, err := s.openIndex(b.spec.Index)
	if err != nil {
		return err
	}
	defer x.Close() //nolint:errcheck // only read
	return s.eachMadeOf(ctx, b.spec.Base, []*indexFile{x}, fn)
}

// checkListed checks that the index lists groups of hard links as a whole, as Relink
// would have it do.
func (s *Store) checkListed(ctx context.Context, b *brought) error {
	if b.spec.Base == "" {
		return nil
	}
	touched := map[string]bool{}
	err := s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
		if listed && e.Link != "" {
			touched[e.Link] = true
		}
		return nil
	})
	if err != nil || len(touched) == 0 {
		return err
	}
	return s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
		if !listed && touched[e.Link] {
			return errUnlike
		}
		return nil
	})
}

// importInParts is importLayer of what bringInParts brought.
func (s *Store) importInParts(ctx context.Context, b *brought, open OpenBlobFunc, m *view.Meter) error {
	defer lean(int(b.parts.sum.entries))()
	l := s.importedLayer(b)
	l.standFor(b)
	l.info.TreeBytes, l.info.Entries = b.parts.sum.bytes, b.parts.sum.entries
	var place *view.Layer
	err := s.twice(ctx, b.spec.ID, func() (err error) {
		place, err = s.unpackInParts(ctx, b, open, m)
		return err
	})
	if err == nil {
		fail.Point("store.import.unpacked")
		err = s.keepInParts(ctx, l, b, place)
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

// unpackInParts fetches content and has the driver store and show it.
func (s *Store) unpackInParts(ctx context.Context, b *brought, open OpenBlobFunc, m *view.Meter) (*view.Layer, error) {
	fresh := func(fn func(e *snapshot.Entry) error) error {
		return s.eachListed(ctx, b, func(e *snapshot.Entry, listed bool) error {
			if !listed {
				return nil
			}
			return fn(e)
		})
	}
	spec := view.TreeSpec{
		ID: b.spec.ID, Base: b.basePlace, N: int(b.parts.sum.entries), New: fresh, Meter: m, Later: b.spec.Later,
		Fill: func(ctx context.Context, write view.WriteFunc) error {
			return s.fillInParts(ctx, b, open, fresh, write)
		},
		Whole: func(located view.Tree) view.Tree {
			b.whole = s.wholeOf(ctx, b, located)
			return b.whole
		},
	}
	if b.spec.Base != "" {
		spec.N = 0
	}
	place, _, err := s.driver.(view.Streamer).UnpackTree(ctx, spec) //nolint:forcetypeassert // bringInParts has looked
	return place, err
}

// wholeOf is the tree of b, with the sources that located says of what is listed.
func (s *Store) wholeOf(ctx context.Context, b *brought, located view.Tree) view.Tree {
	if b.spec.Base == "" {
		return located
	}
	return func(fn func(e *snapshot.Entry) error) error {
		x, err := s.openIndex(b.spec.Index)
		if err != nil {
			return err
		}
		defer x.Close() //nolint:errcheck // only read
		all, done, err := s.beginMaking(ctx, b.spec.Base, []*indexFile{x})
		if err != nil {
			return err
		}
		defer done()
		// until calls fn up to the next one that is listed, or to the end.
		until := func(e *snapshot.Entry) error {
			for {
				if err := all.next(e); err != nil || all.listed {
					return err
				}
				if err := fn(e); err != nil {
					return err
				}
			}
		}
		err = located(func(e *snapshot.Entry) error {
			var is snapshot.Entry
			if err := until(&is); err != nil {
				return err
			}
			is.Source, is.SourceAt = e.Source, e.SourceAt
			return fn(&is)
		})
		if err != nil {
			return err
		}
		var e snapshot.Entry
		if err := until(&e); !errors.Is(err, io.EOF) {
			return errors.Join(err, errUnlike)
		}
		return nil
	}
}

// fillInParts hands out the content of fresh.
func (s *Store) fillInParts(ctx context.Context, b *brought, open OpenBlobFunc, fresh view.Tree, write view.WriteFunc) error {
	w := &writing{
		s: s, key: b.spec.DomainKey, find: b.where.Find, own: ownPacks(b.ix), open: open,
		all: fresh, progress: &Progress{},
	}
	if like := s.openAlike(ctx, b); like != nil {
		defer like.close()
		w.like = &beside{t: like}
		if err := w.like.step(); err != nil {
			return err
		}
	}
	return w.handOut(ctx, write)
}

// keepInParts is keepImported.
func (s *Store) keepInParts(ctx context.Context, l *layer, b *brought, place *view.Layer) (err error) {
	in := &l.info
	l.at.Store(place)
	if in.PlainBytes, err = s.writeSourcesOf(in.ID, in.Manifest, place, b.whole); err != nil {
		return err
	}
	fail.Point("store.import.written")
	return s.commitImported(ctx, l, nil)
}

// twice does it again if it fails because of what an earlier attempt has left.
func (s *Store) twice(ctx context.Context, id snapshot.ID, unpack func() error) error {
	err := unpack()
	if !errors.Is(err, os.ErrExist) || !s.abandoned(id) {
		return err
	}
	if err := s.driver.Discard(ctx, &view.View{ID: id, Layer: view.Layer{ID: id}}); err != nil {
		return fmt.Errorf("undo an earlier attempt: %w", err)
	}
	return unpack()
}
