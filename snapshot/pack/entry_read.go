package pack

import (
	"math"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// entryReader takes out what entryWriter put in.
type entryReader struct {
	entryState
	chunks chunkCodec
	slab   []snapshot.Chunk // allocated ahead, handed out piecewise
	text   strings.Builder  // paths, back to back; its room never moves
}

// textBytes is how much room for paths is allocated at once.
const textBytes = 32 << 10

// join returns a string that shares its room with others.
func (r *entryReader) join(head string, tail []byte) string {
	n := len(head) + len(tail)
	if r.text.Cap()-r.text.Len() < n {
		r.text = strings.Builder{}
		r.text.Grow(max(n, textBytes))
	}
	r.text.WriteString(head)
	r.text.Write(tail)
	return r.text.String()[r.text.Len()-n:]
}

// shared reads what appendShared wrote. The shared part must be as long as it
// can be: there is one way to write a path.
func (r *entryReader) shared(c *cursor, prev string) string {
	n := int(c.uvarint("shared length", uint64(len(prev))))
	m := int(c.uvarint("length of a path", uint64(snapshot.MaxPathBytes-min(n, snapshot.MaxPathBytes))))
	tail := c.bytes(m)
	if c.err != nil {
		return ""
	}
	if m > 0 && n < len(prev) && prev[n] == tail[0] {
		c.fail("path shares more than it says")
		return ""
	}
	p := r.join(prev[:n], tail)
	if why := badPath(p); why != "" {
		c.fail("path %q: %s", p, why)
		return ""
	}
	return p
}

func (r *entryReader) path(c *cursor) string {
	p := r.shared(c, r.prev)
	if c.err == nil && r.started && snapshot.ComparePaths(r.prev, p) >= 0 {
		c.fail("path %q stands behind %q, out of order", p, r.prev)
	}
	r.prev, r.started = p, true
	return p
}

// entry reads what entryWriter.entry wrote, and refuses what it would not write.
func (r *entryReader) entry(c *cursor, e *snapshot.Entry) {
	kind := c.byte()
	e.Type = snapshot.Type(kind & kindType)
	if c.err == nil && (e.Type < snapshot.TypeDir || e.Type > snapshot.TypeSocket) {
		c.fail("%q: unknown type %d", e.Path, e.Type)
	}
	r.meta(c, e, kind)
	switch kind & kindLink {
	case linkNone:
	case linkSelf:
		e.Link = e.Path
	case linkOther:
		e.Link = r.shared(c, e.Path)
		if e.Link == e.Path {
			c.fail("%q: link to itself in the long form", e.Path)
		}
	default:
		c.fail("%q: unknown kind of link", e.Path)
	}
	if kind&kindLink != linkNone && e.Link == "" {
		c.fail("%q: link to the root", e.Path)
	}
	if kind&kindXattr != 0 {
		readXattrs(c, e)
	}
	switch e.Type {
	case snapshot.TypeFile:
		r.content(c, e)
	case snapshot.TypeSymlink:
		n := c.uvarint("length of a symlink's target", snapshot.MaxTargetBytes)
		e.Target = string(c.bytes(int(n)))
	case snapshot.TypeDir, snapshot.TypeFifo, snapshot.TypeSocket: // have nothing more
	}
	if c.err == nil {
		if err := checkEntry(e); err != nil {
			c.fail("%q: %v", e.Path, err)
		}
	}
}

// meta reads mode, owner and mtime.
func (r *entryReader) meta(c *cursor, e *snapshot.Entry, kind byte) {
	e.Mode = r.mode[e.Type]
	if kind&kindMode == 0 {
		e.Mode = uint32(c.uvarint("mode", snapshot.ModeMask))
		if e.Mode == r.mode[e.Type] {
			c.fail("%q: mode told twice", e.Path)
		}
	}
	e.UID, e.GID = r.uid, r.gid
	if kind&kindOwner == 0 {
		e.UID = uint32(c.uvarint("uid", math.MaxUint32))
		e.GID = uint32(c.uvarint("gid", math.MaxUint32))
		if e.UID == r.uid && e.GID == r.gid {
			c.fail("%q: owner told twice", e.Path)
		}
	}
	e.MTime = r.mtime + c.svarint("mtime")
	r.mode[e.Type], r.uid, r.gid, r.mtime = e.Mode, e.UID, e.GID, e.MTime
}

func readXattrs(c *cursor, e *snapshot.Entry) {
	n := int(c.uvarint("number of extended attributes", snapshot.MaxXattrs))
	if n == 0 {
		c.fail("%q: an empty list of extended attributes", e.Path)
	}
	for range n {
		name := string(c.bytes(int(c.uvarint("length of an attribute's name", maxXattrName))))
		value := c.bytes(int(c.uvarint("length of an attribute's value", snapshot.MaxXattrBytes)))
		if c.err != nil {
			return
		}
		e.Xattrs = append(e.Xattrs, snapshot.Xattr{Name: name, Value: append([]byte(nil), value...)})
	}
}

func (r *entryReader) content(c *cursor, e *snapshot.Entry) {
	e.Size = int64(c.uvarint("size", math.MaxInt64))
	n := c.count("number of chunks", r.chunks.size())
	if c.err != nil {
		return
	}
	if len(r.slab) < n || r.slab == nil {
		r.slab = make([]snapshot.Chunk, max(n, 256))
	}
	// Never nil: the content is known, if only as a hole.
	e.Chunks = r.slab[:n:n]
	r.slab = r.slab[n:]
	var end int64
	for i := range e.Chunks {
		ch := &e.Chunks[i]
		gap := int64(c.uvarint("gap before a chunk", uint64(e.Size-end)))
		ch.Off = end + gap
		ch.ID, ch.Len = r.chunks.read(c)
		if c.err == nil && (ch.Len < 1 || ch.Len > e.Size-ch.Off) {
			c.fail("%q: chunk of %d bytes at %d leaves the file of %d", e.Path, ch.Len, ch.Off, e.Size)
		}
		if c.err != nil {
			return
		}
		end = ch.Off + ch.Len
	}
}
