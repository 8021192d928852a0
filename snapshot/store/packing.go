package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// packNice is how much packing yields to the jobs of this host, which wait for nothing
// that it does. What another host waits for is packed next, but no faster.
const packNice = 10

// pack makes a synced layer PACKED: its content is in packs, its changes in an
// index, its tree in a manifest, each read back before the row names it.
//
// Crash states, in order:
//  1. packs, index, manifest or sources written, in any number: files of no row;
//     Open deletes them and packing begins again.
//  2. after the row: PACKED. From now on the digests say what the snapshot is.
func (s *Store) pack(ctx context.Context, l *layer) error {
	if d := s.long(ctx, l); d != nil {
		return s.packInParts(ctx, d, l)
	}
	e, err := s.encode(ctx, l)
	if err != nil {
		return err
	}
	if err := s.savePacked(ctx, l, e); err != nil {
		s.strayPacks(e)
		return err
	}
	return nil
}

// strayPacks notes that nobody needs the packs of e after all. It may be nil.
func (s *Store) strayPacks(e *encoded) {
	if e == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range e.ix.Packs {
		if p.Own {
			s.stale = append(s.stale, p.Digest)
		}
	}
}

// encoded is a layer whose content is in packs.
type encoded struct {
	ix    *pack.Index
	tree  *snapshot.Manifest // the whole snapshot, hashed; nil of a long one
	base  snapshot.ID        // what the index's changes are against
	stats pack.Stats
	sum   totals // of the tree
	own   int64  // bytes of the files that the layer itself has
}

// encode hashes and packs what the layer changed against its base's manifest.
func (s *Store) encode(ctx context.Context, l *layer) (*encoded, error) {
	var base *snapshot.Manifest
	var baseDigest snapshot.Digest
	if l.info.Base != "" {
		var err error
		if base, err = s.Tree(ctx, l.info.Base); err != nil {
			return nil, err
		}
		in, err := s.Lookup(l.info.Base)
		if err != nil {
			return nil, err
		}
		baseDigest = in.Manifest
	}
	m, err := s.Tree(ctx, l.info.ID)
	if err != nil {
		return nil, err
	}
	changes := tree.DiffAside(ctx, base, m)
	if err := s.fillKnown(ctx, l, changes); err != nil {
		return nil, err
	}
	known, err := s.known(l)
	if err != nil {
		return nil, err
	}
	o := s.encoder(l.key, known, previous(base))
	o.Nice = packNice
	e := &encoded{base: l.info.Base}
	if e.ix, e.stats, err = pack.Encode(ctx, o, changes); err != nil {
		return nil, err
	}
	fail.Point("store.pack.encoded")
	e.ix.Base = baseDigest
	if e.tree, err = tree.ApplyAside(ctx, base, e.ix.Changes); err != nil {
		return nil, err
	}
	e.sum = totals{e.tree.Bytes(), int64(len(e.tree.Entries))}
	e.own = s.ownBytes(l.place(), e.ix)
	if s.chainLen(l.info.Base) >= s.o.MaxChain {
		if err := beginAnew(ctx, o, e); err != nil {
			return nil, err
		}
	}
	e.ix.Manifest, err = pack.WriteManifest(quiet.Writer(ctx, io.Discard), e.tree) // its digest alone
	return e, err
}

// previous finds what a base (nil: nothing) has at a path, so that of large files
// only what changed is new.
func previous(base *snapshot.Manifest) func(string) *snapshot.Entry {
	if base == nil {
		return nil
	}
	return func(path string) *snapshot.Entry {
		e, _ := base.Find(path)
		return e
	}
}

// fillKnown gives files that the layer has from others (a merge, a renamed
// directory) the chunks that are known there, so that they are not read again.
func (s *Store) fillKnown(ctx context.Context, l *layer, changes []snapshot.Change) error {
	for i := range changes {
		e := &changes[i].Entry
		if changes[i].Delete || e.Hashed() || e.Source == "" {
			continue
		}
		owner, path := s.ownerOf(l, e.Source)
		if owner == "" {
			continue
		}
		m, err := s.Tree(ctx, owner)
		if err != nil {
			return err
		}
		if o, ok := m.Find(path); ok && o.Source == e.Source && o.SourceAt == e.SourceAt && o.Size == e.Size && o.Hashed() {
			e.Chunks = o.Chunks
		}
	}
	return nil
}

// ownerOf returns the packed layer in whose directory source lies, and the path
// that it has there, if it is not l itself.
func (s *Store) ownerOf(l *layer, source string) (snapshot.ID, string) {
	src, ok := s.rel(source)
	if !ok || strings.HasPrefix(src, l.place().Dir+"/") {
		return "", ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, o := range s.layers {
		if path, ok := strings.CutPrefix(src, o.place().Dir+"/"); ok && !o.info.Index.IsZero() && o.info.State.Usable() {
			return id, path
		}
	}
	return "", ""
}

// known returns where chunks are that the layer need not bring: in the packs of
// its ancestors of the same domain, the nearest first.
func (s *Store) known(l *layer) (func(snapshot.Digest) (pack.Location, bool), error) {
	var places []*pack.Places
	for _, a := range s.ancestors(l) {
		m, ok := s.located.get(a.ID)
		if !ok {
			ix, err := s.readTables(a.Index)
			if err != nil {
				// A snapshot is packed in full rather than on a doubtful ancestor.
				s.log.Warn("an ancestor's index can't be read, its chunks are stored again", "snapshot", a.ID, "error", err)
				continue
			}
			m = pack.PlacesOf(ix)
			if m.Len() <= s.o.CacheEntries { // else what is read next needs the room
				s.located.put(a.ID, m, m.Len())
			}
		}
		places = append(places, m)
	}
	return func(d snapshot.Digest) (pack.Location, bool) {
		for _, m := range places {
			if loc, ok := m.Find(d); ok {
				return loc, true
			}
		}
		return pack.Location{}, false
	}, nil
}

// ancestors lists the packed ancestors of l that are held, breadth first.
func (s *Store) ancestors(l *layer) []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Info
	seen := map[snapshot.ID]bool{"": true, l.info.ID: true}
	todo := append([]snapshot.ID{l.info.Base}, l.info.Parents...)
	for len(todo) > 0 {
		id := todo[0]
		todo = todo[1:]
		o, ok := s.layers[id]
		if seen[id] || !ok {
			continue
		}
		seen[id] = true
		if !o.info.Index.IsZero() && string(o.key) == string(l.key) {
			out = append(out, o.info)
		}
		todo = append(append(todo, o.info.Base), o.info.Parents...)
	}
	return out
}

// savePacked writes index, manifest and sources, then the row.
func (s *Store) savePacked(ctx context.Context, l *layer, e *encoded) error {
	ix, m := e.ix, e.tree
	index, indexBytes, err := s.writeIndex(ix)
	if err != nil {
		return err
	}
	if err := s.saveTree(ctx, l.info.ID, ix.Manifest, m); err != nil {
		return err
	}
	return s.savedPacked(ctx, l, e, index, indexBytes)
}

// savedPacked writes the row of a layer all of whose files are there.
func (s *Store) savedPacked(ctx context.Context, l *layer, e *encoded, index snapshot.Digest, indexBytes int64) error {
	ix := e.ix
	fail.Point("store.pack.written")
	s.addBlob(index, s.indexPath(index), indexBytes)
	err := s.commitPacked(ctx, l, ix, e.tree, func(in *Info) error {
		if in.State != Sealed {
			return fmt.Errorf("snapshot %s became %s meanwhile", in.ID, in.State)
		}
		in.State, in.Err = Packed, ""
		in.WireBase = e.base
		in.Manifest, in.Index, in.IndexBytes = ix.Manifest, index, indexBytes
		in.PlainBytes, in.StoredBytes = e.stats.Plain, e.stats.Stored+indexBytes
		in.weigh(ix)
		in.TreeBytes, in.Entries = e.sum.bytes, e.sum.entries
		in.EncodeMS = e.stats.Elapsed.Seconds() * 1000
		in.DiskBytes = e.own + in.StoredBytes
		return nil
	})
	if err != nil {
		return err
	}
	s.longs.forget(l.info.ID)
	s.tell()
	return nil
}

// saveTree keeps a hashed tree and checks that it can be read back.
func (s *Store) saveTree(ctx context.Context, id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest) error {
	if err := s.writeManifest(ctx, m, d); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := fileDigestAside(ctx, s.manifestPath(d), "manifest", d); err != nil {
		return err
	}
	quiet.Step(ctx)
	return s.writeSources(id, d, m)
}

func (s *Store) commitPacked(ctx context.Context, l *layer, ix *pack.Index, m *snapshot.Manifest,
	set func(*Info) error,
) error {
	err := s.change(ctx, l, edit{
		set:  set,
		more: func(ctx context.Context, tx *txn) error { return insertPacks(ctx, tx, l.info.ID, ix.Packs) },
		show: func() {
			l.packs, l.unsized = ix.Packs, false
			if m != nil {
				s.trees.put(l.info.ID, m, len(m.Entries))
			} else {
				s.trees.drop(l.info.ID) // that one is not hashed
			}
			for _, p := range ix.Packs {
				if p.Own {
					s.have[p.Digest] = blobFile{path: s.packPath(p.Digest), bytes: p.Bytes}
				}
			}
		},
	})
	if err == nil {
		fail.Point("store.pack.row")
	}
	return err
}

// ownBytes is what the layer's own files hold.
func (s *Store) ownBytes(place *view.Layer, ix *pack.Index) int64 {
	var n int64
	for i := range ix.Changes {
		e := &ix.Changes[i].Entry
		if src, ok := s.rel(e.Source); ok && strings.HasPrefix(src, place.Dir+"/") && e.FirstLink() {
			n += e.Size
		}
	}
	return n
}

// packFailed sorts the reasons: what can't ever be packed is broken or suspect,
// the rest is tried again.
func (s *Store) packFailed(ctx context.Context, l *layer, err error) {
	var unsupported *snapshot.UnsupportedError
	var corrupt *snapshot.CorruptError
	switch {
	case errors.As(err, &unsupported):
		s.longs.forget(l.info.ID)
		if err := s.endUse(ctx, l, Broken, unsupported); err != nil {
			s.log.Error("can't note that a layer is broken", "snapshot", l.info.ID, "error", err)
		}
	case errors.As(err, &corrupt):
		s.longs.forget(l.info.ID)
		s.fallen(ctx, l, err)
	default:
		s.log.Warn("a layer can't be packed now", "snapshot", l.info.ID, "error", err)
		s.mu.Lock()
		l.info.Err = err.Error() // passes: not worth a row
		s.announceLocked(l)
		s.mu.Unlock()
		s.tell()
	}
}

// writeIndex makes indexes/<digest>.
func (s *Store) writeIndex(ix *pack.Index) (d snapshot.Digest, n int64, err error) {
	return s.writeIndexBy(func(w *bufio.Writer) (snapshot.Digest, error) { return pack.WriteIndex(w, ix) })
}

// writeIndexBy makes indexes/<digest> of what write writes.
func (s *Store) writeIndexBy(write func(*bufio.Writer) (snapshot.Digest, error)) (d snapshot.Digest, n int64, err error) {
	f, d, n, err := s.draftIndex(write)
	if err != nil {
		return d, 0, fmt.Errorf("index: %w", err)
	}
	defer f.Abort()
	if err := f.Commit(s.indexPath(d)); err != nil {
		return d, 0, fmt.Errorf("index: %w", err)
	}
	return d, n, fileDigest(s.indexPath(d), "index", d)
}

// draftIndex makes a file of what write writes, n bytes. It has no name until the caller
// commits it; on error there is none.
func (s *Store) draftIndex(write func(*bufio.Writer) (snapshot.Digest, error)) (f *durable.File, d snapshot.Digest, n int64, err error) {
	if f, err = durable.Create(filepath.Join(s.dir, "tmp")); err != nil {
		return nil, d, 0, err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if d, err = write(w); err == nil {
		err = w.Flush()
	}
	if err == nil {
		n, err = f.Seek(0, io.SeekCurrent)
	}
	if err != nil {
		f.Abort()
		return nil, d, 0, err
	}
	return f, d, n, nil
}

// readIndex reads an index of this store and checks that it is the one asked for.
func (s *Store) readIndex(d snapshot.Digest) (*pack.Index, error) {
	f, err := os.Open(s.indexPath(d))
	if err != nil {
		return nil, lost("index", d, err)
	}
	defer f.Close()
	return decodeIndex(bufio.NewReaderSize(f, 1<<20), d)
}

// readTables is readIndex without the changes.
func (s *Store) readTables(d snapshot.Digest) (*pack.Index, error) {
	x, err := s.openIndex(d)
	if err != nil {
		return nil, err
	}
	defer x.Close() //nolint:errcheck // only read
	return x.Tables, x.skip()
}

// indexFile is an index of this store that is read change by change.
type indexFile struct {
	*pack.IndexReader
	f *os.File
	d snapshot.Digest
}

// openIndex begins to read an index. Whether it is the one that was asked for shows at
// its end: by next, or by skip.
func (s *Store) openIndex(d snapshot.Digest) (*indexFile, error) {
	return openIndexAt(s.indexPath(d), d)
}

func openIndexAt(path string, d snapshot.Digest) (*indexFile, error) {
	f, size, err := openSized(path)
	if err != nil {
		return nil, lost("index", d, err)
	}
	r, err := pack.NewIndexReader(bufio.NewReaderSize(f, 1<<20), size)
	if err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	return &indexFile{r, f, d}, nil
}

// openSized opens a file and says how long it is.
func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, 0, err
	}
	return f, fi.Size(), nil
}

// Close implements io.Closer.
func (x *indexFile) Close() error {
	x.IndexReader.Close()
	return x.f.Close()
}

// next fills in the next change; io.EOF behind the last one says that all was right.
func (x *indexFile) next(ch *snapshot.Change) error { return x.ended(x.Next(ch)) }

// skip leaves the changes out.
func (x *indexFile) skip() error { return x.ended(x.Skip()) }

func (x *indexFile) ended(err error) error {
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("index %s: %w", x.d, err)
	}
	if got := x.Digest(); got != x.d && !got.IsZero() {
		return &snapshot.CorruptError{What: "index", Name: x.d.String(), Why: "its digest is " + got.String()}
	}
	return err
}

// decodeIndex reads an index of which only the digest is known.
func decodeIndex(r io.Reader, d snapshot.Digest) (*pack.Index, error) {
	h := sha256.New()
	ix, err := pack.ReadIndex(io.TeeReader(r, h))
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	if _, err := io.Copy(h, r); err != nil {
		return nil, fmt.Errorf("index %s: %w", d, err)
	}
	if got := snapshot.Digest(h.Sum(nil)); got != d {
		return nil, &snapshot.CorruptError{What: "index", Name: d.String(), Why: "its digest is " + got.String()}
	}
	return ix, nil
}

// fileDigest checks that a file holds what its name says.
func fileDigest(path, what string, d snapshot.Digest) error {
	return checkDigest(path, what, d, func(w io.Writer) io.Writer { return w })
}

// fileDigestAside is fileDigest that stands aside while the gate of ctx is held.
func fileDigestAside(ctx context.Context, path, what string, d snapshot.Digest) error {
	return checkDigest(path, what, d, func(w io.Writer) io.Writer { return quiet.Writer(ctx, w) })
}

func checkDigest(path, what string, d snapshot.Digest, by func(io.Writer) io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return lost(what, d, err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(by(h), f); err != nil {
		return fmt.Errorf("%s %s: %w", what, d, err)
	}
	if got := snapshot.Digest(h.Sum(nil)); got != d {
		return &snapshot.CorruptError{What: what, Name: d.String(), Why: "its digest is " + got.String()}
	}
	return nil
}
