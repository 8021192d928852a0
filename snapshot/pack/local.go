package pack

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/snapshot"
)

// had is where a file of the base has a chunk.
type had struct {
	file *snapshot.Entry
	at   snapshot.Chunk
}

// local writes the chunks that files of the base have, and takes them out of the plan.
// It is a short cut: each is checked like one that was fetched, and what is not right
// stays in the plan.
func (x *extractor) local(ctx context.Context) error {
	have := x.have()
	if err := x.haveElsewhere(have); err != nil {
		return err
	}
	if len(have) == 0 {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(x.o.Workers)
	for i := range x.p.uses {
		if len(x.p.uses[i]) == 0 {
			continue
		}
		g.Go(func() error { return x.localFrame(gctx, i, have) })
	}
	return g.Wait()
}

// have lists what the base has at the paths of the changes.
func (x *extractor) have() map[snapshot.Digest]had {
	out := map[snapshot.Digest]had{}
	if x.o.Previous == nil {
		return out
	}
	x.prevs = map[int32]*snapshot.Entry{}
	for i := range x.ix.Changes {
		e := &x.ix.Changes[i].Entry
		if x.ix.Changes[i].Delete || e.Type != snapshot.TypeFile || len(e.Chunks) == 0 {
			continue
		}
		prev := x.o.Previous(e.Path)
		if prev == nil || prev.Type != snapshot.TypeFile || prev.Source == "" || checkContent(prev) != nil {
			continue
		}
		x.prevs[int32(i)] = prev
		for _, c := range prev.Chunks {
			out[c.ID] = had{prev, c}
		}
	}
	return out
}

// haveElsewhere adds to have what the base has at other paths of what is needed and not in
// have, if it can be there: that is, if this layer did not store it.
func (x *extractor) haveElsewhere(have map[snapshot.Digest]had) error {
	if x.o.Base == nil {
		return nil
	}
	wanted := map[snapshot.Digest]struct{}{}
	for _, uses := range x.p.uses {
		for _, u := range uses {
			c := &x.ix.Chunks[u.chunk]
			if _, ok := have[c.ID]; !ok && !x.ix.Packs[x.ix.Frames[c.Frame].Pack].Own {
				wanted[c.ID] = struct{}{}
			}
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	return x.o.Base(len(wanted), func(e *snapshot.Entry) error {
		if e.Type != snapshot.TypeFile || e.Source == "" {
			return nil
		}
		var kept *snapshot.Entry
		for _, c := range e.Chunks {
			if _, ok := wanted[c.ID]; !ok {
				continue
			}
			if kept == nil {
				kept = &snapshot.Entry{Path: e.Path, Size: e.Size, Source: e.Source, SourceAt: e.SourceAt}
			}
			have[c.ID] = had{kept, c}
			delete(wanted, c.ID)
		}
		return nil
	})
}

// localFrame does it for the chunks of one frame.
func (x *extractor) localFrame(ctx context.Context, frame int, have map[snapshot.Digest]had) error {
	k := newKeyed(x.o.Key)
	var buf []byte
	left := x.p.uses[frame][:0]
	for _, u := range x.p.uses[frame] {
		if err := ctx.Err(); err != nil {
			return err
		}
		c := &x.ix.Chunks[u.chunk]
		h, ok := have[c.ID]
		if !ok {
			h, ok = x.partOfBase(u)
		}
		if !ok || h.at.Len != int64(c.Len) {
			left = append(left, u)
			continue
		}
		if len(buf) < int(c.Len) {
			buf = make([]byte, roundUp(int(c.Len)))
		}
		p := buf[:c.Len]
		if err := h.read(p); err != nil || k.id(p) != c.ID {
			left = append(left, u)
			continue
		}
		if err := x.put(u, p); err != nil {
			return err
		}
	}
	x.p.uses[frame] = left
	return nil
}

// partOfBase guesses where the base's file has a chunk that is a part of one of its
// own: at the same place. Only a chunk of an ancestor can be that.
func (x *extractor) partOfBase(u use) (had, bool) {
	c := &x.ix.Chunks[u.chunk]
	if x.ix.Packs[x.ix.Frames[c.Frame].Pack].Own {
		return had{}, false
	}
	for _, at := range x.p.of(u) {
		if prev := x.prevs[at.change]; prev != nil && at.off <= prev.Size-int64(c.Len) {
			return had{prev, snapshot.Chunk{Off: at.off, Len: int64(c.Len)}}, true
		}
	}
	return had{}, false
}

// read fills p with the chunk.
func (h had) read(p []byte) error {
	s, err := openSource(whereIs(h.file), h.file.Size)
	if err != nil {
		return err
	}
	defer s.Close()
	return s.readAt(p, h.at.Off)
}
