package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// pullers is how many packs come at a time.
const pullers = 4

// Pull makes a snapshot that somebody pushed a stored one here: its index and the
// packs that are missing are fetched, nothing is unpacked. Its base must be held.
// Nothing of what open gives is trusted: index and packs must have their digests,
// and the changes must make the manifest that was asked for; chunks are checked
// against their keyed digests when they are read. Of a snapshot that is held
// nothing is done; of one that is damaged what is bad is fetched again. p counts bytes as they are
// written; it may be nil.
//
// Crash states, in order:
//  1. packs, index or manifest written: files of no row; Open deletes them.
//  2. after the row: held, Packed and stored only.
func (s *Store) Pull(ctx context.Context, spec ImportSpec, open OpenBlobFunc, p *Progress) error {
	im, mine, err := s.enterImport(&spec, spec.Base)
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if im == nil {
		return nil
	}
	if !mine {
		return fmt.Errorf("pull %s: %w: it is being fetched", spec.ID, snapshot.ErrBusy)
	}
	defer func() {
		im.err = err
		s.mu.Lock()
		delete(s.imports, spec.ID)
		s.mu.Unlock()
		close(im.done)
	}()
	end, err := s.begin(spec.ID, "pull")
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	defer end()
	defer s.named.release(spec.ID)
	if p == nil {
		p = &Progress{}
	}
	committing, err := s.pull(ctx, &spec, open, p)
	if err != nil {
		if !committing {
			s.sweepUnnamed()
		}
		return fmt.Errorf("pull %s: %w", spec.ID, err)
	}
	s.tell()
	return nil
}

func (s *Store) pull(ctx context.Context, spec *ImportSpec, open OpenBlobFunc, p *Progress) (committing bool, err error) {
	old, err := s.toMend(ctx, spec)
	if err != nil {
		return false, err
	}
	if err := s.pullBase(ctx, spec); err != nil {
		return false, err
	}
	f, err := s.fetchIndexFile(ctx, spec, open)
	if err != nil {
		return false, err
	}
	defer f.Abort()
	t, err := s.pulledTree(ctx, spec, f)
	if err != nil {
		return false, err
	}
	defer t.abort()
	ix := t.ix
	if old != nil {
		s.forgetBad(ix)
	}
	if err := s.fetchPacks(ctx, ix, open, p); err != nil {
		return false, err
	}
	fail.Point("store.pull.packs")
	s.named.claim(spec.ID, spec.Index, spec.Manifest)
	if err := f.Commit(s.indexPath(spec.Index)); err != nil {
		return false, fmt.Errorf("index: %w", err)
	}
	s.addBlob(spec.Index, s.indexPath(spec.Index), spec.IndexBytes)
	if old != nil && fileDigest(s.manifestPath(spec.Manifest), "manifest", spec.Manifest) != nil {
		removeFile(s.manifestPath(spec.Manifest), s.log)
	}
	if err := t.write(ctx, s, spec.Manifest); err != nil {
		return false, fmt.Errorf("manifest: %w", err)
	}
	fail.Point("store.pull.written")
	if old != nil {
		s.trees.drop(spec.ID)
		return true, s.change(ctx, old, edit{set: func(in *Info) error {
			in.State, in.Err = Packed, ""
			return nil
		}})
	}
	l := s.pulledLayer(spec, ix, t.sum)
	if err := s.addStored(ctx, l, t.m); err != nil {
		return true, err
	}
	fail.Point("store.pull.row")
	return true, nil
}

// toMend returns the stored layer that is held and damaged: what is good of it, and
// what stands on it, stays. Another damaged one makes room.
func (s *Store) toMend(ctx context.Context, spec *ImportSpec) (*layer, error) {
	s.mu.Lock()
	l := s.layers[spec.ID]
	stored := l != nil && l.stored() && l.info.State == Suspect
	same := stored && l.info.Index == spec.Index && l.info.Manifest == spec.Manifest &&
		l.info.WireBase == spec.Base && string(l.key) == string(spec.DomainKey)
	s.mu.Unlock()
	if stored && !same {
		return nil, &snapshot.CorruptError{What: "snapshot", Name: string(spec.ID), Why: "what is held here, and damaged, is another one"}
	}
	if stored {
		return l, nil
	}
	return nil, s.dropDoubtful(ctx, spec.ID)
}

// forgetBad makes packs that are not what their names say be fetched again.
func (s *Store) forgetBad(ix *pack.Index) {
	for _, pk := range ix.Packs {
		if fileDigest(s.packPath(pk.Digest), "pack", pk.Digest) != nil {
			s.mu.Lock()
			delete(s.have, pk.Digest)
			s.mu.Unlock()
		}
	}
}

func (s *Store) pullBase(ctx context.Context, spec *ImportSpec) error {
	if spec.Base == "" {
		return nil
	}
	key, err := s.KeyOf(spec.Base)
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	if string(key) != string(spec.DomainKey) {
		return fmt.Errorf("base %s belongs to another domain", spec.Base)
	}
	if err := s.SyncLater(ctx, spec.Base); err != nil {
		return fmt.Errorf("base: %w", err)
	}
	return nil
}

// fetchPacks brings what is not here of the packs that ix names.
func (s *Store) fetchPacks(ctx context.Context, ix *pack.Index, open OpenBlobFunc, p *Progress) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(pullers)
	var todo []pack.Pack
	for _, pk := range ix.Packs {
		if !s.needs(pk.Digest) {
			todo = append(todo, pk)
			p.Total.Add(pk.Bytes)
		}
	}
	for _, pk := range todo {
		g.Go(func() error {
			if err := s.fetchPack(ctx, pk, open, p); err != nil {
				return fmt.Errorf("pack %s: %w", pk.Digest, err)
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *Store) fetchPack(ctx context.Context, pk pack.Pack, open OpenBlobFunc, p *Progress) error {
	r, err := open(ctx, pk.Digest, 0, pk.Bytes)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := durable.Create(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return err
	}
	defer f.Abort()
	h := sha256.New()
	w := bufio.NewWriterSize(f, 1<<20)
	n, err := io.Copy(io.MultiWriter(w, h, counted{p}), io.LimitReader(r, pk.Bytes+1))
	if err != nil {
		return err
	}
	if got := snapshot.Digest(h.Sum(nil)); n != pk.Bytes || got != pk.Digest {
		return &snapshot.CorruptError{
			What: "pack", Name: pk.Digest.String(), Why: fmt.Sprintf("%d bytes with digest %s came", n, got),
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := f.Commit(s.packPath(pk.Digest)); err != nil {
		return err
	}
	s.addBlob(pk.Digest, s.packPath(pk.Digest), pk.Bytes)
	return nil
}

// counted counts what is written to it.
type counted struct{ p *Progress }

func (c counted) Write(b []byte) (int, error) {
	c.p.Done.Add(int64(len(b)))
	return len(b), nil
}

func (s *Store) pulledLayer(spec *ImportSpec, ix *pack.Index, sum totals) *layer {
	l := storedLayer(s.o.BootID, spec.DomainKey, ix)
	l.info = Info{
		ID: spec.ID, WireBase: spec.Base, Parents: spec.Parents, State: Packed, Synced: true,
		Manifest: spec.Manifest, Index: spec.Index, IndexBytes: spec.IndexBytes, StoredBytes: spec.IndexBytes,
		TreeBytes: sum.bytes, Entries: sum.entries,
	}
	for _, pk := range ix.Packs {
		if pk.Own {
			l.info.StoredBytes += pk.Bytes
		}
	}
	l.info.DiskBytes = l.info.StoredBytes
	l.info.weigh(ix)
	return l
}
