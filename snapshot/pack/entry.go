package pack

import (
	"encoding/binary"
	"fmt"

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
	case snapshot.TypeDir, snapshot.TypeFifo, snapshot.TypeSocket: // have nothing more
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
