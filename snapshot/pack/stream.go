package pack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Stream is an Encode of more than should be in memory at once. Its changes come in
// parts, each behind the one before in the order of a manifest; of a part nothing
// stays but what the index will say of it, some 50 bytes of a small file beside new
// names. What Encode says of packs, crashes and errors is true of the whole of it, but
// that an error leaves no promise on the part. One goroutine uses it.
//
// A hard-linked file must be readable at the first of its names.
type Stream struct {
	e     *encoder
	start time.Time

	// The changes as the index has them.
	n       int
	coded   [][]byte
	w       entryWriter
	refs    refCodec
	scratch []byte
}

// NewStream begins. files is about how many files with content there will be. The
// caller calls Close in the end, whatever happened.
func NewStream(o EncoderOptions, files int) (*Stream, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Stream{e: newEncoder(o), start: o.Now()}
	s.e.expect(files)
	s.e.before = map[string]content{}
	s.w.chunks = &s.refs
	return s, nil
}

// Close ends what is under way, and lets go of temporary files.
func (s *Stream) Close() { s.e.close() }

// Add stores the content of some changes, and fills in their Chunks.
func (s *Stream) Add(ctx context.Context, part []snapshot.Change) error {
	return s.AddAsOf(ctx, part, nil)
}

// AddAsOf is Add for who knows of each change which ctime its Source had when it was
// looked at, 0 or less where that is not known: it is an error if one of these has
// another one when it has been read. Where nobody can tell ctimes, nobody asks.
func (s *Stream) AddAsOf(ctx context.Context, part []snapshot.Change, ctimes []int64) error {
	s.e.ctimes = ctimes
	if err := s.add(ctx, part); err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return nil
}

func (s *Stream) add(ctx context.Context, part []snapshot.Change) error {
	e, from := s.e, len(s.e.chunks)
	e.more = true
	if err := e.plan(part); err != nil {
		return err
	}
	if err := e.run(ctx); err != nil {
		return err
	}
	if err := e.check(); err != nil {
		return err
	}
	e.fill(part)
	e.remember()
	if err := e.sortFrom(from, part); err != nil {
		return err
	}
	s.refs.chunks, s.refs.place = e.chunks, e.place
	var err error
	if s.scratch, err = appendEach(s.scratch[:0], part, &s.w); err != nil {
		return err
	}
	s.coded, s.n = append(s.coded, bytes.Clone(s.scratch)), s.n+len(part)
	return nil
}

// Finish returns the index without Base, Manifest and Changes: these WriteIndex adds
// and Each tells.
func (s *Stream) Finish(ctx context.Context) (*Index, Stats, error) {
	e := s.e
	e.files, e.more = nil, false
	if err := e.run(ctx); err != nil {
		return nil, Stats{}, fmt.Errorf("encode: %w", err)
	}
	fail.Point("pack.encoded")
	ix, err := e.index()
	if err != nil {
		return nil, Stats{}, err
	}
	e.stats.Stored = e.packs.stored
	e.stats.Elapsed = e.o.Now().Sub(s.start)
	return ix, e.stats, nil
}

// WriteIndex is the function WriteIndex for what Finish returned. What it does not need
// any more it lets go of on the way, ix.Chunks too, and nothing but Close may follow.
func (s *Stream) WriteIndex(w io.Writer, ix *Index) (snapshot.Digest, error) {
	if s.n > maxEntries {
		return snapshot.Digest{}, fmt.Errorf("index: %d changes, more than %d", s.n, maxEntries)
	}
	size := tablesBytes(ix)
	for _, b := range s.coded {
		size += len(b)
	}
	makeRoom(size)
	body := appendTables(make([]byte, 0, size), ix, ix.Chunks)
	body = binary.AppendUvarint(body, uint64(s.n))
	for _, b := range s.coded {
		body = append(body, b...)
	}
	s.coded, s.refs, s.e.table, ix.Chunks = nil, refCodec{}, table{}, nil
	makeRoom(len(body))
	return writeBody(w, ix, body)
}

// makeRoom gives garbage back to the system before n bytes are allocated, if they are
// many: they do not fit between what is left, and both would be there at once.
func makeRoom(n int) {
	if n >= 32<<20 {
		debug.FreeOSMemory()
	}
}

// Each calls fn for each change, as Add left it but without Source. It may be called
// once Finish has returned. The change is fn's only until it returns; an error of fn
// ends it and is returned as it is.
func (s *Stream) Each(fn func(ch *snapshot.Change) error) error {
	r := entryReader{chunks: &refCodec{chunks: s.e.chunks}}
	for _, b := range s.coded {
		for c := (&cursor{b: b}); c.left() > 0; {
			var ch snapshot.Change
			if readChange(c, &r, &ch); c.err != nil {
				return fmt.Errorf("encode: %w", c.err)
			}
			if err := fn(&ch); err != nil {
				return err
			}
		}
	}
	return nil
}

// content is what a hard-linked file of an earlier part has.
type content struct {
	size   int64
	chunks []snapshot.Chunk
}

// remember keeps what later names of the files may need.
func (e *encoder) remember() {
	for i := range e.files {
		if f := &e.files[i]; f.entry.Link != "" {
			e.before[f.entry.Link] = content{f.entry.Size, f.entry.Chunks}
		}
	}
}

var errUnused = errors.New("a chunk is in the table that no change uses")

// sortFrom puts the chunks from place from on in the order in which changes use them,
// which they mostly have: those of hashed files come first as long as it isn't called.
func (t *table) sortFrom(from int, changes []snapshot.Change) error {
	order := make([]int, 0, len(t.chunks)-from)
	used := make([]bool, len(t.chunks)-from)
	sorted := true
	for i := range changes {
		for _, c := range changes[i].Entry.Chunks {
			at, ok := t.place.find(&c.ID)
			if !ok || at < from || used[at-from] || changes[i].Delete {
				continue
			}
			used[at-from] = true
			sorted = sorted && at == from+len(order)
			order = append(order, at)
		}
	}
	if len(order) != len(used) {
		return errUnused
	}
	if sorted {
		return nil
	}
	moved := make([]ChunkRef, len(order))
	for i, at := range order {
		moved[i] = t.chunks[at]
	}
	copy(t.chunks[from:], moved)
	t.place = newIDTable(cap(t.chunks), t.place.id)
	for i := range t.chunks {
		t.place.add(i)
	}
	return nil
}
