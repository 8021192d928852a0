package pack

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/roost-ci/roost/snapshot"
)

// An entry's second byte. The first bits are its type.
//
//	 7      6      5      4 3     2 1 0
//	+------+------+------+-------+-------+
//	| mode | owner| xattr| link  | type  |
//	+------+------+------+-------+-------+
const (
	kindType  = 0b0000_0111
	kindLink  = 0b0001_1000 // linkNone, linkSelf or linkOther
	kindXattr = 1 << 5      // extended attributes follow
	kindOwner = 1 << 6      // owner as in the entry before
	kindMode  = 1 << 7      // mode as in the last entry of the same type

	linkNone  = 0 << 3
	linkSelf  = 1 << 3
	linkOther = 2 << 3
)

// minEntry is the size of the smallest entry (shared, length, kind and mtime of a
// root) and of the smallest change (what, shared, length and a byte of path).
const minEntry = 4

// chunkCodec puts a file's chunks in and takes them out. Manifests hold ids,
// indexes hold references to a table of them.
type chunkCodec interface {
	size() int // of the smallest chunk, its gap included
	append(b []byte, c snapshot.Chunk) ([]byte, error)
	read(c *cursor) (id snapshot.Digest, n int64)
}

// entryState is what entries are stored relative to; both sides keep it alike.
type entryState struct {
	prev    string
	started bool // prev is an entry's path
	mtime   int64
	uid     uint32
	gid     uint32
	mode    [kindType + 1]uint32
}

// entryWriter appends entries to a buffer.
type entryWriter struct {
	entryState
	chunks chunkCodec
}

// entryReader takes them out again.
type entryReader struct {
	entryState
	chunks chunkCodec
	slab   []snapshot.Chunk // allocated ahead, handed out piecewise
}

// path appends where p differs from the path before it.
func (w *entryWriter) path(b []byte, p string) ([]byte, error) {
	if why := badPath(p); why != "" {
		return nil, fmt.Errorf("path %q: %s", p, why)
	}
	if w.started && snapshot.ComparePaths(w.prev, p) >= 0 {
		return nil, fmt.Errorf("path %q stands behind %q, out of order", p, w.prev)
	}
	b = appendShared(b, w.prev, p)
	w.prev, w.started = p, true
	return b, nil
}

// entry appends all of e but its path.
func (w *entryWriter) entry(b []byte, e *snapshot.Entry) ([]byte, error) {
	if err := checkEntry(e); err != nil {
		return nil, fmt.Errorf("%q: %w", e.Path, err)
	}
	kind := byte(e.Type)
	sameOwner := e.UID == w.uid && e.GID == w.gid
	sameMode := e.Mode == w.mode[e.Type]
	if sameMode {
		kind |= kindMode
	}
	if sameOwner {
		kind |= kindOwner
	}
	if len(e.Xattrs) > 0 {
		kind |= kindXattr
	}
	switch e.Link {
	case "":
	case e.Path:
		kind |= linkSelf
	default:
		kind |= linkOther
	}
	b = append(b, kind)
	if !sameMode {
		b = binary.AppendUvarint(b, uint64(e.Mode))
	}
	if !sameOwner {
		b = binary.AppendUvarint(b, uint64(e.UID))
		b = binary.AppendUvarint(b, uint64(e.GID))
	}
	b = appendSvarint(b, e.MTime-w.mtime) // wraps around, and back again
	w.mode[e.Type], w.uid, w.gid, w.mtime = e.Mode, e.UID, e.GID, e.MTime
	if kind&kindLink == linkOther {
		b = appendShared(b, e.Path, e.Link)
	}
	if kind&kindXattr != 0 {
		b = appendXattrs(b, e.Xattrs)
	}
	switch e.Type {
	case snapshot.TypeFile:
		return w.content(b, e)
	case snapshot.TypeSymlink:
		b = binary.AppendUvarint(b, uint64(len(e.Target)))
		b = append(b, e.Target...)
	}
	return b, nil
}

func (w *entryWriter) content(b []byte, e *snapshot.Entry) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(e.Size))
	b = binary.AppendUvarint(b, uint64(len(e.Chunks)))
	var end int64
	for _, c := range e.Chunks {
		b = binary.AppendUvarint(b, uint64(c.Off-end))
		var err error
		if b, err = w.chunks.append(b, c); err != nil {
			return nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		end = c.Off + c.Len
	}
	return b, nil
}

// appendShared appends p as what it shares with prev and what it does not.
func appendShared(b []byte, prev, p string) []byte {
	n := 0
	for n < len(prev) && n < len(p) && prev[n] == p[n] {
		n++
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = binary.AppendUvarint(b, uint64(len(p)-n))
	return append(b, p[n:]...)
}

func appendXattrs(b []byte, xs []snapshot.Xattr) []byte {
	b = binary.AppendUvarint(b, uint64(len(xs)))
	for _, x := range xs {
		b = binary.AppendUvarint(b, uint64(len(x.Name)))
		b = append(b, x.Name...)
		b = binary.AppendUvarint(b, uint64(len(x.Value)))
		b = append(b, x.Value...)
	}
	return b
}

// readShared reads what appendShared wrote. The shared part must be as long as it
// can be: there is one way to write a path.
func readShared(c *cursor, prev string) string {
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
	p := prev[:n] + string(tail)
	if why := badPath(p); why != "" {
		c.fail("path %q: %s", p, why)
		return ""
	}
	return p
}

func (r *entryReader) path(c *cursor) string {
	p := readShared(c, r.prev)
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
		e.Link = readShared(c, e.Path)
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
		name := c.bytes(int(c.uvarint("length of an attribute's name", maxXattrName)))
		value := c.bytes(int(c.uvarint("length of an attribute's value", snapshot.MaxXattrBytes)))
		if c.err != nil {
			return
		}
		e.Xattrs = append(e.Xattrs, snapshot.Xattr{Name: string(name), Value: append([]byte(nil), value...)})
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
