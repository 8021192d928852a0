package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// packing is a pack of a layer whose tree is long: it stores what differs from the base
// in parts, and writes manifest and sources meanwhile.
type packing struct {
	parting
	s    *Store
	l    *layer
	base *layer // nil: there is none
	tree view.Tree
	sum  totals
	own  string // the prefix of what the job made

	touched map[string]bool            // groups of hard links of which a name changed
	large   map[string]*snapshot.Entry // of large files that are yet to be stored: what the base has
	linked  map[string]*snapshot.Entry // the same of hard links, by their first name

	out      *pack.ManifestWriter
	sources  sourceList
	ownBytes int64 // of what the job made
}

// packInParts is encode and savePacked of a long tree.
func (s *Store) packInParts(ctx context.Context, d view.Lister, l *layer) error {
	s.longs.work.Lock()
	defer s.longs.work.Unlock()
	p := &packing{
		s: s, l: l, own: s.dir + "/" + l.place().Dir + "/",
		touched: map[string]bool{}, large: map[string]*snapshot.Entry{}, linked: map[string]*snapshot.Entry{},
		sources: sourceList{refs: map[place]uint64{}},
	}
	p.most, p.tell = s.part(partEntries), p.note
	s.mu.Lock()
	p.base = s.layers[l.info.Base]
	s.mu.Unlock()
	if p.base == nil && l.info.Base != "" {
		return missing("not held", l.info.Base)
	}
	var err error
	if p.tree, p.sum, err = s.longTree(ctx, d, l); err != nil {
		return fmt.Errorf("tree of %s: %w", l.info.ID, err)
	}
	if l.fanin {
		p.tree = s.fillingKnown(ctx, l, p.tree)
	}
	defer lean(int(p.sum.entries))()
	touched, err := s.touchedBy(ctx, d, l)
	if err != nil {
		return err
	}
	e, st, err := p.encode(ctx, touched.Len())
	if st != nil {
		defer st.Close()
	}
	if err == nil {
		err = p.save(ctx, st, e)
	}
	if err != nil {
		s.strayPacks(e)
	}
	return err
}

// encode makes packs, manifest and sources. The stream that it returns has the changes of
// the index; the caller closes it.
func (p *packing) encode(ctx context.Context, files int) (*encoded, *pack.Stream, error) {
	s := p.s
	known, err := s.known(p.l)
	if err != nil {
		return nil, nil, err
	}
	o := s.encoder(p.l.key, known, p.previous)
	o.Nice = packNice
	st, err := pack.NewStream(o, files)
	if err != nil {
		return nil, nil, err
	}
	e, err := p.encodeTo(ctx, st)
	if err != nil {
		return e, st, err
	}
	if s.chainLen(p.l.info.Base) < s.o.MaxChain {
		return e, st, nil
	}
	defer st.Close()
	anew, err := p.encodeAnew(ctx, o, e)
	return e, anew, err
}

// encodeTo stores what differs from the base.
func (p *packing) encodeTo(ctx context.Context, st *pack.Stream) (*encoded, error) {
	s := p.s
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	buf := bufio.NewWriterSize(f, 1<<20)
	if p.out, err = pack.NewManifestWriter(buf, int(p.sum.entries)); err != nil {
		return nil, err
	}
	if err := p.add(ctx, st); err != nil {
		return nil, err
	}
	e := &encoded{base: p.l.info.Base, sum: p.sum}
	if e.ix, e.stats, err = st.Finish(ctx); err != nil {
		return nil, err
	}
	fail.Point("store.pack.encoded")
	if p.base != nil {
		e.ix.Base = p.base.info.Manifest
	}
	if e.ix.Manifest, err = p.out.Close(); err != nil {
		return e, err
	}
	if err := buf.Flush(); err != nil {
		return e, err
	}
	s.named.claim(p.l.info.ID, e.ix.Manifest)
	name := s.manifestPath(e.ix.Manifest)
	if absent, err := isAbsent(name); err != nil {
		return e, err
	} else if absent {
		if err := f.Commit(name); err != nil {
			return e, fmt.Errorf("manifest: %w", err)
		}
	}
	return e, fileDigest(name, "manifest", e.ix.Manifest)
}

// add goes through the tree and the base's.
func (p *packing) add(ctx context.Context, st *pack.Stream) error {
	if p.base != nil {
		if err := p.findTouched(ctx); err != nil {
			return err
		}
	}
	err := p.compare(ctx, func(c *compared) error {
		if c.same {
			return p.put(ctx, st, nil, &c.ch.Entry, noCtime)
		}
		return p.put(ctx, st, &c.ch, nil, noCtime)
	})
	return p.end(ctx, st, err)
}

// compare goes through the tree and the base's, as tree.Diff does.
func (p *packing) compare(ctx context.Context, fn func(c *compared) error) error {
	var b beside
	if p.base != nil {
		t, err := p.s.openTree(ctx, p.base)
		if err != nil {
			return err
		}
		defer t.close()
		b.t = t
		if err := b.step(); err != nil {
			return err
		}
	}
	return b.compare(p.tree, func(c *compared) {
		e := &c.ch.Entry
		c.same = b.e.Equal(e) && (e.Link == "" || !p.touched[e.Link])
		if !c.same && b.e.Type == snapshot.TypeFile && e.Size >= pack.LargeBytes {
			was := b.e
			p.large[e.Path] = &was
		}
	}, fn)
}

// findTouched looks which groups of hard links have a name that changed, and what the base
// has at names of large ones.
func (p *packing) findTouched(ctx context.Context) error {
	err := p.compare(ctx, func(c *compared) error {
		e := &c.ch.Entry
		if e.Link != "" {
			if !c.same {
				p.touched[e.Link] = true
			}
			if was := p.large[e.Path]; was != nil && len(was.Chunks) > 0 && p.linked[e.Link] == nil {
				p.linked[e.Link] = was
			}
		}
		clear(p.large)
		return nil
	})
	return err
}

// previous is what the base has at the path of a large file, or at another name of it.
func (p *packing) previous(path string) *snapshot.Entry {
	if was := p.large[path]; was != nil && len(was.Chunks) > 0 {
		return was
	}
	return p.linked[path]
}

// note writes an entry into the manifest, and where its content is into the list of that.
func (p *packing) note(e *snapshot.Entry) error {
	delete(p.large, e.Path)
	src := ""
	if e.Source != "" {
		var ok bool
		if src, ok = p.s.rel(e.Source); !ok {
			return fmt.Errorf("sources of %s: %q lies outside of the store", p.l.info.ID, e.Source)
		}
	}
	p.sources.add(e, src)
	if e.FirstLink() && strings.HasPrefix(e.Source, p.own) {
		p.ownBytes += e.Size
	}
	return p.out.Append(e)
}

// encodeAnew is beginAnew, of the manifest that was written.
func (p *packing) encodeAnew(ctx context.Context, o pack.EncoderOptions, e *encoded) (*pack.Stream, error) {
	st, err := pack.NewStream(alsoKnown(o, e.ix), int(p.sum.entries))
	if err != nil {
		return nil, err
	}
	t, err := p.s.openManifest(e.ix.Manifest)
	if err != nil {
		return st, err
	}
	defer t.close()
	all := parting{most: p.most, tell: func(*snapshot.Entry) error { return nil }}
	err = p.tree(func(e *snapshot.Entry) error {
		var ch snapshot.Change
		if err := t.next(&ch.Entry); err != nil {
			return err
		}
		if ch.Entry.Path != e.Path {
			return errors.New("its tree is another one now")
		}
		ch.Entry.Source, ch.Entry.SourceAt = e.Source, e.SourceAt
		return all.put(ctx, st, &ch, nil, noCtime)
	})
	if err = all.end(ctx, st, err); err != nil {
		return st, err
	}
	ix, stats, err := st.Finish(ctx)
	if err != nil {
		return st, err
	}
	ix.Manifest = e.ix.Manifest
	e.instead(ix, stats)
	e.base = ""
	return st, nil
}

// save writes the index and the list of sources, then the row.
func (p *packing) save(ctx context.Context, st *pack.Stream, e *encoded) error {
	s, id := p.s, p.l.info.ID
	index, indexBytes, err := s.writeIndexBy(id, func(w *bufio.Writer) (snapshot.Digest, error) { return st.WriteIndex(w, e.ix) })
	if err != nil {
		return err
	}
	b := p.sources.append(append([]byte(srcMagic), e.ix.Manifest[:]...))
	if err := writeSummed(s.srcPath(id), b); err != nil {
		return fmt.Errorf("sources of %s: %w", id, err)
	}
	e.own = p.ownBytes
	return s.savedPacked(ctx, p.l, e, index, indexBytes)
}
