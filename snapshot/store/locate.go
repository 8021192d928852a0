package store

import (
	"context"
	"fmt"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// maxLocated bounds the chunks that a locator keeps, about 70 bytes each.
const maxLocated = 8 << 20

// locator finds chunks by the indexes of layers. It reads an index when a chunk is
// not in those that it has, so who asks nothing reads nothing.
type locator struct {
	s *Store
	// all says that a chunk which is not found is an error, whatever the search takes.
	all bool

	mu   sync.Mutex // guards all below, across the reading of an index
	todo []Info
	at   pack.Places
	// away has chunks of packs that are not held; nil: they are not looked for.
	away *pack.Places
}

// locate returns a locator of what layers have, which are asked in order.
func (s *Store) locate(layers []Info) *locator {
	return &locator{s: s, todo: layers}
}

// find returns where a chunk is.
func (lo *locator) find(d snapshot.Digest) (pack.Location, bool) {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	for {
		if at, ok := lo.at.Find(d); ok {
			return at, true
		}
		if !lo.nextLocked() {
			if lo.away == nil {
				return pack.Location{}, false
			}
			return lo.away.Find(d)
		}
	}
}

// nextLocked reads one more index, and reports whether there was one.
func (lo *locator) nextLocked() bool {
	if len(lo.todo) == 0 || lo.at.Len() > maxLocated && !lo.all {
		return false
	}
	in := lo.todo[0]
	lo.todo = lo.todo[1:]
	ix, err := lo.s.readTables(in.Index)
	if err != nil {
		// What can't be found there is stored again, or said to be missing.
		lo.s.log.Warn("a layer's index can't be read", "snapshot", in.ID, "error", err)
		return true
	}
	held := make([]bool, len(ix.Packs))
	for i := range ix.Packs {
		held[i] = lo.s.needs(ix.Packs[i].Digest)
	}
	lo.at.Add(ix, func(p int) bool { return held[p] })
	if lo.away != nil {
		lo.away.Add(ix, func(p int) bool { return !held[p] })
	}
	return true
}

// forget lets go of all that was read. Who asks again reads it again.
func (lo *locator) forget() {
	lo.mu.Lock()
	defer lo.mu.Unlock()
	lo.at = pack.Places{}
	if lo.away != nil {
		lo.away = &pack.Places{}
	}
}

// wireChain lists the layers whose indexes together say where all content of id
// is, id first. All are held as long as id is.
func (s *Store) wireChain(id snapshot.ID) ([]Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Info
	for at := id; at != ""; {
		l, ok := s.layers[at]
		if !ok {
			return nil, missing("not held", at)
		}
		if l.info.Index.IsZero() {
			return nil, fmt.Errorf("snapshot %s: %w", at, ErrNotPacked)
		}
		if len(out) > len(s.layers) {
			return nil, fmt.Errorf("snapshot %s: the layers below it stand on each other in a circle", id)
		}
		out = append(out, l.info)
		at = l.info.WireBase
	}
	return out, nil
}

// sameDomain lists the packed layers with that key, the newest first.
func (s *Store) sameDomain(key []byte) []Info {
	var out []Info
	for _, in := range s.List() {
		s.mu.Lock()
		l := s.layers[in.ID]
		ok := l != nil && l.info.State.Usable() && !l.info.Index.IsZero() && string(l.key) == string(key)
		s.mu.Unlock()
		if ok {
			out = append(out, in)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}

// wholeIndex returns an index against the empty tree for m, the tree of id. What
// it says of files' sources is nothing.
func (s *Store) wholeIndex(ctx context.Context, id snapshot.ID, m *snapshot.Manifest) (*pack.Index, error) {
	chain, err := s.wireChain(id)
	if err != nil {
		return nil, err
	}
	if len(chain) == 1 {
		ix, err := s.readIndex(chain[0].Index)
		if err != nil {
			return nil, err
		}
		ix.Changes = tree.Relink(m, ix.Changes)
		return ix, nil
	}
	key, err := s.KeyOf(id)
	if err != nil {
		return nil, err
	}
	return s.indexOf(ctx, key, s.locateAll(chain), m)
}

// locateAll is locate for who needs all chunks, held or not: content may be here without
// its packs.
func (s *Store) locateAll(chain []Info) *locator {
	lo := s.locate(chain)
	lo.all, lo.away = true, &pack.Places{}
	return lo
}

// indexOf makes an index against the empty tree of what lo knows.
func (s *Store) indexOf(ctx context.Context, key []byte, lo *locator, m *snapshot.Manifest) (*pack.Index, error) {
	changes := make([]snapshot.Change, len(m.Entries))
	for i := range m.Entries {
		changes[i].Entry = m.Entries[i]
		changes[i].Entry.Source, changes[i].Entry.SourceAt = "", 0 // nothing is to be stored
	}
	ix, _, err := pack.Encode(ctx, s.encoder(key, lo.find, nil), changes)
	if err != nil {
		return nil, err
	}
	return ix, nil
}

// Link is a snapshot of a chain. Its Blobs are here.
type Link struct {
	Info
	Absent []Blob // packs that its index names and that are not here
}

// Chain lists id and what must be had before it elsewhere, the first one first,
// each with all blobs that its index names. What is not packed is ErrNotPacked.
func (s *Store) Chain(id snapshot.ID) ([]Link, error) {
	chain, err := s.wireChain(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Link, 0, len(chain))
	for i := len(chain) - 1; i >= 0; i-- {
		l, err := s.usableLocked(chain[i].ID)
		if err != nil {
			return nil, err
		}
		link := Link{Info: s.infoLocked(l)}
		for _, p := range l.packs {
			if _, here := s.have[p.Digest]; !here {
				link.Absent = append(link.Absent, Blob{Digest: p.Digest, Bytes: p.Bytes})
			}
		}
		out = append(out, link)
	}
	return out, nil
}
