package pack

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/snapshot"
)

const (
	// compareRun is how many of the base's chunks are compared as one.
	compareRun = 64
	// compareStep: of a whole run every so many chunks are looked at first. If all of
	// them changed, the rest is taken to have changed, too: bytes have moved, and
	// where they are now is found by their content.
	compareStep = 8
)

// keep is a chunk of the base that is in the file now, at Off.
type keep struct {
	snapshot.Chunk
	i     int   // in the base's list
	moved int64 // by so many bytes
	same  bool  // known without reading it
	part  *partOf
}

// fileRange is a part of a file.
type fileRange struct{ off, end int64 }

// unchangedChunks returns the chunks of prev that s has at the same place, counted
// from the start or from the end, in order: so one insertion does no harm. What
// moved otherwise is found by its content.
//
// Of chunks that changed in part it returns what did not, if that is long enough and
// what was there before can be read: from prev's Source, or from packs.
func (e *encoder) unchangedChunks(ctx context.Context, s *source, prev *snapshot.Entry) ([]keep, error) {
	all := make([]keep, len(prev.Chunks))
	for i, c := range prev.Chunks {
		all[i] = keep{Chunk: c, i: i}
	}
	var old *source
	if prev.Source != "" {
		var err error
		if old, err = openSource(whereIs(prev), prev.Size); err == nil { // it is a short cut only
			defer old.Close()
			markShared(s, old, all)
		}
	}
	kept, rest, err := e.compare(ctx, s, all)
	if err != nil {
		return nil, err
	}
	if by := s.size - prev.Size; by != 0 {
		for i := range rest {
			rest[i].Off += by
			rest[i].moved, rest[i].same = by, false
		}
		more, _, err := e.compare(ctx, s, rest)
		if err != nil {
			return nil, err
		}
		kept = merge(kept, more)
	}
	whole := keepers(kept, len(all), prev.Size == s.size)
	switch {
	case old != nil:
		was := func(c *snapshot.Chunk, p []byte) error { return old.readAt(p, c.Off) }
		return e.unchangedParts(ctx, s, was, 0, prev.Chunks, whole)
	case e.o.Open != nil:
		f := frameReader{e: e}
		was := func(c *snapshot.Chunk, p []byte) error { return f.read(ctx, c, p) }
		return e.unchangedParts(ctx, s, was, maxVain, prev.Chunks, whole)
	}
	return whole, nil
}

// markShared marks chunks that lie in blocks of the disk which the file shares with
// the base's. That saves reading them, and changes nothing else.
func markShared(s, old *source, chunks []keep) {
	ranges := sharedRanges(s, old)
	for i := range chunks {
		c := &chunks[i]
		for len(ranges) > 0 && ranges[0].end <= c.Off {
			ranges = ranges[1:]
		}
		c.same = len(ranges) > 0 && ranges[0].off <= c.Off && c.Off+c.Len <= ranges[0].end
	}
}

// compare parts chunks into those that s has where they say and the rest.
func (e *encoder) compare(ctx context.Context, s *source, chunks []keep) (kept, rest []keep, err error) {
	same := make([]bool, len(chunks))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(e.o.Workers)
	for at := 0; at < len(chunks); at += compareRun {
		end := min(at+compareRun, len(chunks))
		g.Go(func() error {
			if err := gctx.Err(); err != nil {
				return err
			}
			return e.compareRun(s, chunks[at:end], same[at:end])
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	for i := range chunks {
		if same[i] {
			kept = append(kept, chunks[i])
		} else {
			rest = append(rest, chunks[i])
		}
	}
	return kept, rest, nil
}

// compareRun marks those of chunks that s has. The first is always read: if it is
// not as what is known without reading says, the others are read, too.
func (e *encoder) compareRun(s *source, chunks []keep, same []bool) error {
	c := runComparing{e: e, s: s, chunks: chunks, same: same, ids: newKeyed(e.o.Key)}
	any, trust := len(chunks) < compareRun, true
	for step := range 3 { // the first chunk, some, the rest
		c.todo = c.todo[:0]
		for i := range chunks {
			k := &chunks[i]
			if stepOf(i) != step || k.Off < 0 || k.Off+k.Len > s.size {
				continue
			}
			if k.same && trust && i > 0 {
				same[i], any = true, true
				continue
			}
			c.todo = append(c.todo, i)
		}
		if err := c.look(); err != nil {
			return err
		}
		for _, i := range c.todo {
			any = any || same[i]
			trust = trust && (same[i] || !chunks[i].same)
		}
		if step == 1 && !any {
			return nil
		}
	}
	return nil
}

// stepOf says in which step of compareRun a chunk is looked at.
func stepOf(i int) int {
	switch {
	case i == 0:
		return 0
	case i%compareStep == 0:
		return 1
	}
	return 2
}

// runComparing is a compareRun under way.
type runComparing struct {
	e      *encoder
	s      *source
	chunks []keep
	same   []bool
	ids    keyed
	todo   []int // chunks to look at now
}

// look reads the chunks of todo, about frameBytes at a time.
func (c *runComparing) look() error {
	for at := 0; at < len(c.todo); {
		end, n := at, int64(0)
		for end < len(c.todo) && (end == at || n+c.chunks[c.todo[end]].Len <= frameBytes) {
			n += c.chunks[c.todo[end]].Len
			end++
		}
		if err := c.lookAt(c.todo[at:end], int(n)); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// lookAt reads some chunks, of n bytes together, and marks those that are the same.
func (c *runComparing) lookAt(todo []int, n int) error {
	c.e.compared.Add(int64(n))
	buf := c.e.bufs.get(n)
	defer c.e.bufs.put(buf)
	parts := make([][]byte, len(todo))
	left := buf
	for i, at := range todo {
		size := c.chunks[at].Len
		parts[i], left = left[:size], left[size:]
		if err := c.s.readAt(parts[i], c.chunks[at].Off); err != nil {
			return err
		}
	}
	c.ids.ids(len(todo), func(i int) []byte { return parts[i] }, func(i int, id snapshot.Digest) {
		c.same[todo[i]] = id == c.chunks[todo[i]].ID
	})
	return nil
}

// merge adds those of more that do not overlap any of kept. Both are in order.
func merge(kept, more []keep) []keep {
	var out []keep
	var end int64
	for len(kept) > 0 || len(more) > 0 {
		if len(more) == 0 || len(kept) > 0 && kept[0].Off < more[0].Off+more[0].Len {
			if len(more) > 0 && kept[0].Off+kept[0].Len > more[0].Off {
				more = more[1:]
				continue
			}
			out, kept = append(out, kept[0]), kept[1:]
			end = out[len(out)-1].Off + out[len(out)-1].Len
			continue
		}
		if more[0].Off >= end {
			out = append(out, more[0])
		}
		more = more[1:]
	}
	return out
}

// keepers leaves out short chunks beside something that changed, so that they are
// cut anew with it: else a file that is changed often would fall to ever smaller
// pieces. The base had n chunks; sameEnd says that the file is as long as it was.
func keepers(kept []keep, n int, sameEnd bool) []keep {
	out := make([]keep, 0, len(kept))
	for at, k := range kept {
		before, behind := k.i == 0 && k.moved == 0, k.i == n-1 && (sameEnd || k.moved != 0)
		if at > 0 {
			before = before || kept[at-1].i == k.i-1 && kept[at-1].moved == k.moved
		}
		if at+1 < len(kept) {
			behind = behind || kept[at+1].i == k.i+1 && kept[at+1].moved == k.moved
		}
		if k.Len >= minCut || before && behind {
			out = append(out, k)
		}
	}
	return out
}

// reread reads a chunk that was kept, but that nothing known has after all.
func (e *encoder) reread(c *found) ([]byte, error) {
	s, err := openSource(c.f.source(), c.f.entry.Size)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	p := make([]byte, c.kept)
	if err := s.readAt(p, c.off); err != nil {
		return nil, err
	}
	if newKeyed(e.o.Key).id(p) != c.id {
		return nil, &snapshot.CorruptError{
			What: "file", Name: c.f.source().path,
			Why: fmt.Sprintf("%d bytes at %d are not what they were", c.kept, c.off),
		}
	}
	return p, nil
}
