package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

var errNoCopy = errors.New("no other copy of it is at hand")

// remakeIndex gets the index from the blob store, or makes it again from the files.
func (c *checkup) remakeIndex(ctx context.Context) (string, error) {
	err := c.fetchBlob(ctx, c.in.Index, c.in.IndexBytes, c.x.s.indexPath(c.in.Index))
	if err == nil {
		return fromBlobStore, nil
	}
	if c.l.stored() {
		return "", err
	}
	if again := c.encodeAgain(ctx); again != nil {
		return "", fmt.Errorf("%w; %w", err, again)
	}
	return fromFiles, nil
}

// encodeAgain packs the layer anew. The same content and the same encoder make the
// same index.
func (c *checkup) encodeAgain(ctx context.Context) error {
	s := c.x.s
	m, err := s.treeFromLayer(ctx, c.l)
	if err != nil {
		return err
	}
	var base *snapshot.Manifest
	var baseDigest snapshot.Digest
	if c.in.WireBase != c.in.Base {
		return errNoCopy
	}
	if c.in.Base != "" {
		if base, err = s.Tree(ctx, c.in.Base); err != nil {
			return err
		}
		in, err := s.Lookup(c.in.Base)
		if err != nil {
			return err
		}
		baseDigest = in.Manifest
	}
	changes := tree.Diff(base, m)
	if err := s.fillKnown(ctx, c.l, changes); err != nil {
		return err
	}
	ix, _, err := pack.Encode(ctx, s.encoder(c.l.key, s.locate(s.ancestors(c.l)).find, previous(base)), changes)
	if err != nil {
		return err
	}
	defer c.dropUnnamed(ix)
	after, err := tree.Apply(base, ix.Changes)
	if err != nil {
		return err
	}
	ix.Base = baseDigest
	if ix.Manifest, err = pack.ManifestDigest(after); err != nil {
		return err
	}
	if ix.Manifest != c.in.Manifest {
		return &snapshot.CorruptError{What: "layer", Name: string(c.in.ID), Why: "its files are not what was sealed"}
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	d, err := pack.WriteIndex(w, ix)
	if err == nil {
		err = w.Flush()
	}
	switch {
	case err != nil:
		return err
	case d != c.in.Index:
		return errors.New("made again it is another index")
	}
	return c.replace(f, s.indexPath(d))
}

// dropUnnamed lets the packs go that Encode made and nobody needs.
func (c *checkup) dropUnnamed(ix *pack.Index) {
	s := c.x.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ix.Packs {
		if _, here := s.have[p.Digest]; p.Own && !here {
			s.stale = append(s.stale, p.Digest)
		}
	}
	s.pokeLocked()
}

// remakeManifest computes the manifest from the index and what that is against.
func (c *checkup) remakeManifest(ctx context.Context) (string, error) {
	s := c.x.s
	var base *snapshot.Manifest
	if c.in.WireBase != "" {
		var err error
		if base, err = s.Tree(ctx, c.in.WireBase); err != nil {
			return "", err
		}
	}
	m, err := tree.Apply(base, c.ix.Changes)
	if err != nil {
		return "", err
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return "", err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	d, err := pack.WriteManifest(w, m)
	if err == nil {
		err = w.Flush()
	}
	switch {
	case err != nil:
		return "", err
	case d != c.in.Manifest:
		return "", &snapshot.CorruptError{What: "manifest", Name: c.in.Manifest.String(), Why: "the index makes " + d.String()}
	}
	return fromIndex, c.replace(f, s.manifestPath(d))
}

// remakePack gets a pack from the blob store, or makes it again from the files of the
// layer that made it.
func (c *checkup) remakePack(ctx context.Context, d snapshot.Digest) (string, error) {
	s := c.x.s
	path := s.packPath(d)
	i := slices.IndexFunc(c.l.packs, func(p pack.Pack) bool { return p.Digest == d })
	if i < 0 {
		return "", errNoCopy
	}
	err := s.rebuildPack(ctx, d, path)
	if err == nil {
		return fromFiles, nil
	}
	if ctx.Err() != nil {
		return "", err
	}
	fetched := c.fetchBlob(ctx, d, c.l.packs[i].Bytes, path)
	if fetched == nil {
		s.addBlob(d, path, c.l.packs[i].Bytes)
		return fromBlobStore, nil
	}
	// What can't be had any more must not be offered either.
	if qerr := s.quarantine(path); qerr != nil {
		return "", qerr
	}
	s.mu.Lock()
	delete(s.have, d)
	s.mu.Unlock()
	return "", fmt.Errorf("%w; %w", err, fetched)
}

// rebuildPack makes a pack again from the files of the layer that made it.
func (s *Store) rebuildPack(ctx context.Context, d snapshot.Digest, path string) error {
	owner, p := s.makerOf(d)
	if owner == nil {
		return errNoCopy
	}
	ix, err := s.readIndex(owner.info.Index)
	if err != nil {
		return err
	}
	m, err := s.readManifest(owner.info.Manifest)
	if err != nil {
		return err
	}
	if err := s.readSources(owner.info.ID, owner.info.Manifest, m); err != nil {
		return err
	}
	at := map[snapshot.Digest]foundChunk{}
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Source == "" {
			continue
		}
		for _, ch := range e.Chunks {
			at[ch.ID] = foundChunk{e, ch}
		}
	}
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	w := bufio.NewWriterSize(f, 1<<20)
	err = pack.Rebuild(ctx, ix, d, owner.key, w, func(id snapshot.Digest) (*snapshot.Entry, snapshot.Chunk, bool) {
		c, ok := at[id]
		return c.e, c.c, ok
	})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return err
	}
	if err := s.replace(f, path); err != nil {
		return err
	}
	s.addBlob(d, path, p.Bytes)
	return nil
}

type foundChunk struct {
	e *snapshot.Entry
	c snapshot.Chunk
}

// makerOf returns the layer that made a pack, if its files are here.
func (s *Store) makerOf(d snapshot.Digest) (*layer, pack.Pack) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.stored() || l.info.Index.IsZero() || l.removing {
			continue
		}
		for _, p := range l.packs {
			if p.Own && p.Digest == d {
				return l, p
			}
		}
	}
	return nil, pack.Pack{}
}

// fetchBlob brings a blob from the blob store into place.
func (c *checkup) fetchBlob(ctx context.Context, d snapshot.Digest, size int64, path string) error {
	if c.x.o.Open == nil {
		return errNoCopy
	}
	r, err := c.x.o.Open(ctx, d, 0, size)
	if err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	defer r.Close()
	f, err := durable.Create(filepath.Join(c.x.s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := io.Copy(f, io.LimitReader(r, size)); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	if err := fileDigest(f.Name(), "blob", d); err != nil {
		return fmt.Errorf("blob store: %w", err)
	}
	return c.replace(f, path)
}

func (c *checkup) replace(f *durable.File, path string) error { return c.x.s.replace(f, path) }

// replace puts a good file in the place of a damaged one, which is kept in bad/.
func (s *Store) replace(f *durable.File, path string) error {
	fail.Point("store.scrub.remade")
	if err := s.quarantine(path); err != nil {
		return err
	}
	fail.Point("store.scrub.quarantined")
	return f.Commit(path)
}

// quarantine moves a damaged file out of the way, to bad/.
func (s *Store) quarantine(path string) error {
	bad := filepath.Join(s.dir, badDir)
	if err := durable.MkdirAll(bad, 0o700); err != nil {
		return fmt.Errorf("quarantine: %w", err)
	}
	now := s.o.Now()
	if err := os.Chtimes(path, now, now); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	err := durable.Rename(path, filepath.Join(bad, filepath.Base(filepath.Dir(path))+"-"+filepath.Base(path)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("quarantine: %w", err)
	}
	return nil
}

// badDir has what was found damaged, for people; Open deletes it after a while.
const badDir = "bad"

// refill writes good bytes over the damaged runs of a file, from packs here or in
// the blob store. The file stays the same one, so whoever has it open or mounted
// gets the good bytes.
func (c *checkup) refill(ctx context.Context, e *snapshot.Entry, bad []pack.Span) (string, error) {
	var errs []error
	for _, src := range []struct {
		from string
		open OpenBlobFunc
	}{{fromPacks, c.x.s.OpenRange}, {fromBlobStore, c.x.o.Open}} {
		if src.open == nil {
			continue
		}
		err := c.refillFrom(ctx, e, bad, src.open)
		if err == nil {
			return src.from, nil
		}
		if ctx.Err() != nil {
			return "", err
		}
		errs = append(errs, fmt.Errorf("%s: %w", src.from, err))
	}
	return "", errors.Join(append(errs, errNoCopy)...)
}

func (c *checkup) refillFrom(ctx context.Context, e *snapshot.Entry, bad []pack.Span, open OpenBlobFunc) error {
	ix, err := c.indexWith(ctx, e)
	if err != nil {
		return err
	}
	w, err := openMended(e.Source)
	if err != nil {
		return err
	}
	o := pack.ExtractOptions{Key: c.l.key, Workers: c.x.s.o.Workers, Open: open}
	err = pack.Refill(ctx, ix, o, e, bad, func(off int64, p []byte) error {
		_, err := w.f.WriteAt(p, e.SourceAt+off)
		return err
	})
	fail.Point("store.scrub.mended")
	if err = errors.Join(err, w.close()); err != nil {
		return err
	}
	left, err := pack.Examine(ctx, c.l.key, e, func(int64) error { return nil })
	if err == nil && len(left) > 0 {
		err = errors.New("it reads as wrong as before")
	}
	return err
}

// imageAgain has an image of l made once more from its tree. Views that were mounted
// on the damaged one go on with that.
func (s *Store) imageAgain(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	if _, ok := s.driver.(imager); !ok {
		return errNoCopy
	}
	return s.newImage(ctx, l, m)
}

// indexWith returns an index that has e's chunks: the layer's own, or of what that is
// against.
func (c *checkup) indexWith(_ context.Context, e *snapshot.Entry) (*pack.Index, error) {
	ix, id := c.ix, c.in.WireBase
	for {
		at := ix.Locate()
		if !slices.ContainsFunc(e.Chunks, func(ch snapshot.Chunk) bool { _, ok := at[ch.ID]; return !ok }) {
			return ix, nil
		}
		if id == "" {
			return nil, errors.New("its chunks are in no index")
		}
		in, err := c.x.s.Lookup(id)
		if err != nil {
			return nil, err
		}
		if ix, err = c.x.s.readIndex(in.Index); err != nil {
			return nil, err
		}
		id = in.WireBase
	}
}

// mended is a sealed file that is written to, which nobody else ever does.
type mended struct {
	f  *os.File
	fi os.FileInfo
}

func openMended(path string) (*mended, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, os.ErrPermission) {
		if err = os.Chmod(path, fi.Mode()|0o200); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY, 0)
		}
	}
	if err != nil {
		return nil, err
	}
	return &mended{f, fi}, nil
}

// close makes the bytes durable, and the file look as before.
func (m *mended) close() error {
	err := m.f.Sync()
	err = errors.Join(err, m.f.Close(), os.Chmod(m.f.Name(), m.fi.Mode()))
	return errors.Join(err, os.Chtimes(m.f.Name(), m.fi.ModTime(), m.fi.ModTime()))
}

// restore makes a suspect layer that was found good what it was before.
func (x *scrubber) restore(ctx context.Context, l *layer) error {
	s := x.s
	st, err := x.formerState(ctx, l)
	if st == "" || err != nil {
		return err
	}
	if err := s.revive(ctx, l, st); err != nil {
		return err
	}
	x.r.Restored = append(x.r.Restored, l.info.ID)
	for _, o := range s.sealedOn(l) {
		if err := s.revive(ctx, o, Sealed); err != nil {
			return err
		}
		x.r.Restored = append(x.r.Restored, o.info.ID)
	}
	return nil
}

// formerState is what a layer that is good may be: what the row says that it was, if
// all of that is still there.
func (x *scrubber) formerState(ctx context.Context, l *layer) (State, error) {
	s := x.s
	s.mu.Lock()
	st, suspect, here := l.use.was, l.info.State == Suspect, true
	for _, p := range l.packs {
		_, ok := s.have[p.Digest]
		here = here && (ok || !p.Own)
	}
	blobs := allBlobs(l)
	s.mu.Unlock()
	switch {
	case !suspect:
		return "", nil
	case st == Durable || st == Packed && here:
		return st, nil
	case here:
		return Packed, nil
	case x.o.Size == nil:
		return "", nil
	}
	for _, b := range blobs {
		n, err := x.o.Size(ctx, b.Digest)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err != nil || n != b.Bytes {
			return "", nil //nolint:nilerr // then it stays suspect
		}
	}
	return Durable, nil
}

// revive makes a suspect layer usable again.
func (s *Store) revive(ctx context.Context, l *layer, st State) error {
	err := s.change(ctx, l, edit{set: func(in *Info) error {
		in.State, in.Err = st, ""
		return nil
	}})
	if err == nil {
		fail.Point("store.scrub.revived")
		s.tell()
	}
	return err
}

// sealedOn lists the layers that became suspect because l was, and have no digests by
// which they could be looked at themselves.
func (s *Store) sealedOn(l *layer) []*layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*layer
	good := map[snapshot.ID]bool{l.info.ID: true}
	all := make([]*layer, 0, len(s.layers))
	for _, o := range s.layers {
		all = append(all, o)
	}
	slices.SortFunc(all, bySeq)
	for _, o := range all {
		if o.info.State != Suspect || o.use.was != Sealed || !o.info.Index.IsZero() || o.info.Err != standsOnSuspect(o.info.Base) || !good[o.info.Base] {
			continue
		}
		if slices.ContainsFunc(o.info.Parents, func(id snapshot.ID) bool {
			p, ok := s.layers[id]
			return o.fanin && (!ok || !p.info.State.Usable())
		}) {
			continue
		}
		good[o.info.ID] = true
		out = append(out, o)
	}
	return out
}

// standsOnSuspect is why a layer is suspect that is not damaged itself.
func standsOnSuspect(id snapshot.ID) string { return "stands on " + string(id) + ", which is suspect" }

// checkedNow notes that all of a layer was read and is right.
func (s *Store) checkedNow(ctx context.Context, l *layer) error {
	now := s.o.Now()
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "UPDATE layers SET checked=? WHERE id=?", now.UnixNano(), string(l.info.ID))
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	l.use.checked = now
	s.mu.Unlock()
	return nil
}

// doubt remembers of the views that stand on l that their jobs may have read what is
// wrong.
func (s *Store) doubt(l *layer, why string) {
	var note []*openView
	s.mu.Lock()
	for _, v := range s.views {
		if v.sealed {
			continue
		}
		for _, id := range v.stands {
			if o, ok := s.layers[id]; ok && (o == l || o.info.State == Suspect) {
				if v.outlives && v.doubt != why {
					note = append(note, v)
				}
				v.doubt = why
			}
		}
	}
	s.mu.Unlock()
	for _, v := range note {
		if err := s.noteOutliving(v); err != nil {
			s.log.Warn("the next process would not know that a view is in doubt", "view", v.id, "error", err)
		}
	}
}

// Reoffer sees to it that a blob that the blob store lost can be read here, and
// returns the layer to be uploaded with it. A pack of a durable layer is made again
// from the layer's files. snapshot.ErrNotFound says that no layer here made it. When
// it is uploaded, MarkDurable lets go of the pack.
func (s *Store) Reoffer(ctx context.Context, lost snapshot.Digest) (Info, error) {
	l := s.sourceOfBlob(lost)
	if l == nil {
		return Info{}, fmt.Errorf("blob %s: %w", lost, snapshot.ErrNotFound)
	}
	defer s.reading()()
	release, err := s.hold(ctx, l.info.ID)
	if err != nil {
		return Info{}, err
	}
	defer release()
	if !s.needs(lost) {
		if err := s.rebuildPack(ctx, lost, s.packPath(lost)); err != nil {
			return Info{}, fmt.Errorf("snapshot %s: %w", l.info.ID, err)
		}
	}
	return s.Lookup(l.info.ID)
}

// sourceOfBlob returns a layer that made a pack, or whose index it is, and which
// can be uploaded.
func (s *Store) sourceOfBlob(d snapshot.Digest) *layer {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.layers {
		if l.info.Index.IsZero() || !l.info.State.Usable() || l.removing {
			continue
		}
		if l.info.Index == d || slices.ContainsFunc(l.packs, func(p pack.Pack) bool { return p.Own && p.Digest == d }) {
			return l
		}
	}
	return nil
}
