package pack

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/snapshot"
)

// What a change does; its first byte.
const (
	opPut     = 0
	opDelete  = 1
	opReplace = 2
)

// refCodec stores chunks as references to the table of chunks. Reference 0 is the
// first chunk that was not referred to yet, k the one k places before that. As the
// table is in order of first use, nearly all references are 0.
type refCodec struct {
	chunks []ChunkRef
	place  idTable // of chunks; only a writer has it
	next   int
}

// inOrder sorts the table by first use; chunks that no change uses come last.
func (r *refCodec) inOrder(changes []snapshot.Change) []ChunkRef {
	sorted := make([]ChunkRef, 0, len(r.chunks))
	used, same := make([]bool, len(r.chunks)), true
	for i := range changes {
		for _, c := range changes[i].Entry.Chunks {
			if at, ok := r.place.find(&c.ID); ok && !used[at] && !changes[i].Delete {
				used[at], same = true, same && at == len(sorted)
				sorted = append(sorted, r.chunks[at])
			}
		}
	}
	for i, c := range r.chunks {
		if !used[i] {
			sorted = append(sorted, c)
		}
	}
	if same { // what was not used comes behind it already
		return r.chunks
	}
	r.chunks, r.place = sorted, tableOf(sorted)
	return sorted
}

func (r *refCodec) size() int { return 2 }

func (r *refCodec) append(b []byte, c snapshot.Chunk) ([]byte, error) {
	at, ok := r.place.find(&c.ID)
	if !ok {
		return nil, fmt.Errorf("chunk %s is in no frame", c.ID)
	}
	if n := r.chunks[at].Len; int64(n) != c.Len {
		return nil, fmt.Errorf("chunk %s has %d bytes here and %d in its frame", c.ID, c.Len, n)
	}
	b = binary.AppendUvarint(b, uint64(r.next-at))
	if at == r.next {
		r.next++
	}
	return b, nil
}

func (r *refCodec) read(c *cursor) (snapshot.Digest, int64) {
	back := int(c.uvarint("reference to a chunk", uint64(r.next)))
	if c.err == nil && back == 0 {
		r.next++
		if r.next > len(r.chunks) {
			c.fail("reference to a chunk behind the last one")
		}
	}
	if c.err != nil {
		return snapshot.Digest{}, 0
	}
	at := r.next - 1
	if back > 0 {
		at = r.next - back
	}
	return r.chunks[at].ID, int64(r.chunks[at].Len)
}

func appendChanges(b []byte, changes []snapshot.Change, refs *refCodec) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(len(changes)))
	return appendEach(b, changes, &entryWriter{chunks: refs})
}

func appendEach(b []byte, changes []snapshot.Change, w *entryWriter) ([]byte, error) {
	for i := range changes {
		ch := &changes[i]
		op := byte(opPut)
		switch {
		case ch.Delete && ch.Replace:
			return nil, fmt.Errorf("%q: both deleted and replaced", ch.Entry.Path)
		case ch.Delete && ch.Entry.Path == "":
			return nil, errors.New("the root can't be deleted")
		case ch.Delete:
			op = opDelete
		case ch.Replace:
			op = opReplace
		}
		var err error
		if b, err = w.path(append(b, op), ch.Entry.Path); err != nil {
			return nil, err
		}
		if ch.Delete {
			continue // nothing else of the entry matters
		}
		if b, err = w.entry(b, &ch.Entry); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func readChanges(c *cursor, ix *Index) {
	n := countChanges(c)
	if c.err != nil {
		return
	}
	ix.Changes = make([]snapshot.Change, n)
	r := entryReader{chunks: &refCodec{chunks: ix.Chunks}}
	for i := range ix.Changes {
		if readChange(c, &r, &ix.Changes[i]); c.err != nil {
			return
		}
	}
}

// countChanges reads how many changes follow.
func countChanges(c *cursor) int {
	n := c.count("number of changes", minEntry)
	if n > maxEntries {
		c.fail("%d changes, more than %d", n, maxEntries)
	}
	return n
}

func readChange(c *cursor, r *entryReader, ch *snapshot.Change) {
	op := c.byte()
	ch.Delete, ch.Replace = op == opDelete, op == opReplace
	if op > opReplace {
		c.fail("a change of unknown kind %d", op)
	}
	ch.Entry.Path = r.path(c)
	switch {
	case !ch.Delete:
		r.entry(c, &ch.Entry)
	case c.err == nil && ch.Entry.Path == "":
		c.fail("the root can't be deleted")
	}
}
