package erofs

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// Names that overlay reads. Only stubs have them: in a manifest they would let a
// tree from outside point at any object of the host.
const (
	xattrMetacopy = "overlay.metacopy"
	xattrRedirect = "overlay.redirect"
)

// Indexes that stand for the prefix of a name.
const (
	prefixUser       = 1
	prefixACLAccess  = 2
	prefixACLDefault = 3
	prefixTrusted    = 4
)

const (
	nameACLAccess  = "system.posix_acl_access"
	nameACLDefault = "system.posix_acl_default"
)

// xattrs collects the attributes of one inode at a time, and the shared area
// that all of them have in common.
//
//	header:  0 name filter (unused)  4 number of shared ones  5 zero (7)
//	         then 4 bytes for each shared one: its place in the area, in words
//	entry:   0 length of name  1 prefix  2 length of value, name, value; padded to 4
type xattrs struct {
	ids    []uint32 // shared ones of the current inode
	inline []byte   // the others, encoded
	entry  []byte   // scratch

	area   []byte
	places map[string]uint32 // entry, as encoded, to its word in area
}

// set makes the current inode that of e, with the attributes of a stub for object
// unless that is empty.
func (x *xattrs) set(e *snapshot.Entry, object string) error {
	x.ids, x.inline = x.ids[:0], x.inline[:0]
	if len(e.Xattrs) > snapshot.MaxXattrs {
		return fmt.Errorf("%d extended attributes, at most %d", len(e.Xattrs), snapshot.MaxXattrs)
	}
	for i := range e.Xattrs {
		a := &e.Xattrs[i]
		if i > 0 && e.Xattrs[i-1].Name >= a.Name {
			return fmt.Errorf("extended attributes %q and %q: not sorted or not unique", e.Xattrs[i-1].Name, a.Name)
		}
		prefix, name, err := splitXattr(e, a)
		if err != nil {
			return fmt.Errorf("extended attribute %q: %w", a.Name, err)
		}
		if err := x.add(prefix, name, a.Value); err != nil {
			return fmt.Errorf("extended attribute %q: %w", a.Name, err)
		}
	}
	if object != "" {
		x.addInline(prefixTrusted, xattrMetacopy, nil)
		x.addInline(prefixTrusted, xattrRedirect, []byte(object)) // no other inode has it
	}
	if n := x.bytes(); n > xattrHeaderSize+4*(maxXattrIcount-1) {
		return fmt.Errorf("extended attributes of %d bytes: %w", n, ErrTooLarge)
	}
	return nil
}

// splitXattr refuses what the kernel would refuse to set on such an entry.
func splitXattr(e *snapshot.Entry, a *snapshot.Xattr) (prefix uint8, name string, err error) {
	if len(a.Name) > maxXattrNameSize || strings.IndexByte(a.Name, 0) >= 0 {
		return 0, "", fmt.Errorf("not a name")
	}
	if len(a.Value) > maxXattrValue {
		return 0, "", fmt.Errorf("value of %d bytes: %w", len(a.Value), ErrTooLarge)
	}
	switch {
	case a.Name == nameACLAccess && e.Type != snapshot.TypeSymlink:
		return prefixACLAccess, "", checkACL(a.Value)
	case a.Name == nameACLDefault && e.Type == snapshot.TypeDir:
		return prefixACLDefault, "", checkACL(a.Value)
	case e.Type != snapshot.TypeFile && e.Type != snapshot.TypeDir:
		return 0, "", fmt.Errorf("not on a %s", e.Type)
	}
	name, ok := strings.CutPrefix(a.Name, "user.")
	if !ok || name == "" {
		return 0, "", fmt.Errorf("not one that a snapshot keeps")
	}
	return prefixUser, name, nil
}

func (x *xattrs) add(prefix uint8, name string, value []byte) error {
	n := int(roundUp(int64(xattrEntrySize+len(name)+len(value)), 4))
	share := n > maxInlineXattr && len(x.ids) < maxSharedXattrs
	if !share {
		x.addInline(prefix, name, value)
		return nil
	}
	x.entry = appendXattr(x.entry[:0], n, prefix, name, value)
	word, ok := x.places[string(x.entry)]
	if !ok {
		if uint64(len(x.area)+n) >= 1<<34 {
			return fmt.Errorf("shared attributes: %w", ErrTooLarge)
		}
		word = uint32(len(x.area) / 4)
		if x.places == nil {
			x.places = map[string]uint32{}
		}
		x.places[string(x.entry)] = word
		x.area = append(x.area, x.entry...)
	}
	x.ids = append(x.ids, word)
	return nil
}

func (x *xattrs) addInline(prefix uint8, name string, value []byte) {
	n := int(roundUp(int64(xattrEntrySize+len(name)+len(value)), 4))
	x.inline = appendXattr(x.inline, n, prefix, name, value)
}

func appendXattr(b []byte, n int, prefix uint8, name string, value []byte) []byte {
	end := len(b) + n
	b = append(b, uint8(len(name)), prefix, uint8(len(value)), uint8(len(value)>>8))
	b = append(b, name...)
	b = append(b, value...)
	for len(b) < end {
		b = append(b, 0)
	}
	return b
}

// bytes is the room that the current inode's attributes take behind it.
func (x *xattrs) bytes() int {
	if len(x.ids) == 0 && len(x.inline) == 0 {
		return 0
	}
	return xattrHeaderSize + 4*len(x.ids) + len(x.inline)
}

// icount is that room as an inode says it.
func (x *xattrs) icount() uint16 {
	n := x.bytes()
	if n == 0 {
		return 0
	}
	return uint16(1 + (n-xattrHeaderSize)/4)
}

func (x *xattrs) put(b []byte) {
	if x.bytes() == 0 {
		return
	}
	b[4] = uint8(len(x.ids))
	for i, id := range x.ids {
		le.PutUint32(b[xattrHeaderSize+4*i:], id)
	}
	copy(b[xattrHeaderSize+4*len(x.ids):], x.inline)
}

// in reports whether b, the attributes of some inode, says the same of the
// current one; whether b is a stub's aside.
func (x *xattrs) in(b []byte) bool {
	if len(b) == 0 || int(b[4]) != len(x.ids) {
		return len(b) == 0 && x.bytes() == 0
	}
	b = b[xattrHeaderSize:]
	for _, id := range x.ids {
		if le.Uint32(b) != id {
			return false
		}
		b = b[4:]
	}
	rest, ok := bytes.CutPrefix(b, x.inline)
	return ok && (len(rest) == 0 || rest[1] == prefixTrusted)
}
