package tree

import (
	"fmt"
	"math"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// Validate checks everything that a manifest from outside must satisfy before it
// is used: entries sorted and unique, plain relative paths whose parents are
// directories, the root first, lengths and numbers in range, fields only where
// their type has them, allowed attributes only, chunks within their file, and
// groups of hard links whose names agree. The error is a *snapshot.CorruptError
// that names the first entry which does not.
func Validate(m *snapshot.Manifest) error {
	if m == nil || len(m.Entries) == 0 {
		return corrupt("", "no root directory")
	}
	var in InOrder
	groups := map[string]*group{}
	for i := range m.Entries {
		e := &m.Entries[i]
		if err := in.Next(e); err != nil {
			return err
		}
		if why := joinGroup(groups, e); why != "" {
			return corrupt(e.Path, why)
		}
	}
	for i := range m.Entries { // in order, so that the same fault is named each time
		if g := groups[m.Entries[i].Path]; g != nil && g.names < 2 {
			return corrupt(m.Entries[i].Path, "a group of hard links with one name")
		}
	}
	return nil
}

// InOrder checks the entries of a tree one by one, as Validate does but for what they
// say of hard links. The zero InOrder is at the root.
type InOrder struct {
	dirs  dirStack
	prev  string
	total int64
}

// Next checks the next entry, of which nothing but strings is kept.
func (o *InOrder) Next(e *snapshot.Entry) error {
	if why := entryFault(e); why != "" {
		return corrupt(e.Path, why)
	}
	if len(o.dirs) > 0 {
		if err := inOrder(o.prev, e.Path); err != nil {
			return err
		}
	}
	if err := o.dirs.enter(e); err != nil {
		return corrupt(e.Path, err.Error())
	}
	if o.total += e.Size; o.total < 0 {
		return corrupt(e.Path, "the sizes add up to more than 2^63 bytes")
	}
	o.prev = e.Path
	return nil
}

// ValidateChanges checks what can be checked of changes without their base: each
// entry as Validate does, their order, and that nothing stands below what is
// deleted or is not a directory.
func ValidateChanges(changes []snapshot.Change) error {
	var leaf topmost // the last path that nothing may stand below
	for i := range changes {
		ch := &changes[i]
		p := ch.Entry.Path
		why := ""
		switch {
		case ch.Delete && ch.Replace:
			why = "both deleted and replaced"
		case ch.Delete && p == "":
			why = "the root is deleted"
		case ch.Replace && p == "": // a list against nothing says that
			why = "the root is replaced"
		case ch.Delete:
			why = pathFault(p)
		case ch.Replace && ch.Entry.Type != snapshot.TypeDir:
			why = "only a directory can be replaced"
		case p == "" && ch.Entry.Type != snapshot.TypeDir:
			why = "the root is not a directory"
		default:
			why = entryFault(&ch.Entry)
		}
		if why == "" && leaf.covers(p) {
			why = fmt.Sprintf("stands below %.300q, which is deleted or not a directory", leaf.path)
		}
		if why != "" {
			return corrupt(p, why)
		}
		if i > 0 {
			if err := inOrder(changes[i-1].Entry.Path, p); err != nil {
				return err
			}
		}
		if ch.Delete || ch.Entry.Type != snapshot.TypeDir {
			leaf.add(p)
		}
	}
	return nil
}

func corrupt(path, why string) error {
	return &snapshot.CorruptError{What: "entry", Name: fmt.Sprintf("%.300q", path), Why: why}
}

func inOrder(before, path string) error {
	switch c := comparePaths(before, path); {
	case c == 0:
		return corrupt(path, "listed twice")
	case c > 0:
		return corrupt(path, fmt.Sprintf("stands behind %.300q: not sorted", before))
	}
	return nil
}

// pathFault says what is wrong with a path, or nothing. The root's is "".
func pathFault(p string) string {
	if p == "" {
		return ""
	}
	if len(p) > snapshot.MaxPathBytes {
		return fmt.Sprintf("a path of %d bytes", len(p))
	}
	if strings.IndexByte(p, 0) >= 0 {
		return "a NUL in a path"
	}
	begin := 0
	for i := 0; i <= len(p); i++ { // not by strings.Cut: names are short
		if i < len(p) && p[i] != '/' {
			continue
		}
		switch name := p[begin:i]; {
		case name == "":
			return "an absolute path, or an empty component"
		case name == "." || name == "..":
			return "a component that is . or .."
		case len(name) > snapshot.MaxNameBytes:
			return fmt.Sprintf("a component of %d bytes", len(name))
		}
		begin = i + 1
	}
	return ""
}

// No time before 1901 is kept by ext4 and XFS, and none after 2262 fits: a tree that
// says so could not be shown as it says.
const (
	minTime = -(1 << 31) * 1_000_000_000
	maxTime = (math.MaxInt64/1_000_000_000 - 1) * 1_000_000_000
)

// oddTime refuses a file with another time.
func oddTime(path string) error {
	return &snapshot.UnsupportedError{Path: path, What: "modification time before December 1901 or after April 2262"}
}

// entryFault says what is wrong with an entry by itself, or nothing.
func entryFault(e *snapshot.Entry) string {
	if why := pathFault(e.Path); why != "" {
		return why
	}
	switch {
	case e.Type < snapshot.TypeDir || e.Type > snapshot.TypeSocket:
		return fmt.Sprintf("type %d", e.Type)
	case e.Mode&^snapshot.ModeMask != 0:
		return fmt.Sprintf("mode %#o", e.Mode)
	case e.UID == math.MaxUint32 || e.GID == math.MaxUint32:
		return "an owner of -1, which means nobody to chown(2)"
	case e.MTime < minTime || e.MTime > maxTime:
		return "a modification time that no scan would find"
	case e.Size < 0 || e.Size != 0 && e.Type != snapshot.TypeFile:
		return fmt.Sprintf("a %s of %d bytes", e.Type, e.Size)
	case e.Link != "" && e.Type != snapshot.TypeFile:
		return fmt.Sprintf("a hard-linked %s", e.Type)
	case len(e.Chunks) > 0 && e.Type != snapshot.TypeFile:
		return fmt.Sprintf("a %s with content", e.Type)
	}
	if why := targetFault(e); why != "" {
		return why
	}
	if why := xattrFault(e.Xattrs); why != "" {
		return why
	}
	if len(e.Xattrs) > 0 && e.Type == snapshot.TypeSymlink {
		return "a symlink with attributes, which no system lets it have"
	}
	return chunkFault(e)
}

func targetFault(e *snapshot.Entry) string {
	switch {
	case e.Type != snapshot.TypeSymlink && e.Target != "":
		return fmt.Sprintf("a %s with a target", e.Type)
	case e.Type != snapshot.TypeSymlink:
		return ""
	case e.Target == "":
		return "a symlink without a target"
	case len(e.Target) > snapshot.MaxTargetBytes:
		return fmt.Sprintf("a target of %d bytes", len(e.Target))
	case strings.IndexByte(e.Target, 0) >= 0:
		return "a NUL in a target"
	}
	return ""
}

// leastACL is the size of an access list of four entries. One of three is a mode,
// and is kept as that.
const leastACL = 4 + 4*8

func xattrFault(xs []snapshot.Xattr) string {
	if len(xs) > snapshot.MaxXattrs {
		return fmt.Sprintf("%d attributes", len(xs))
	}
	for i, x := range xs {
		switch {
		case !snapshot.KeepsXattr(x.Name):
			return fmt.Sprintf("attribute %.80q, which is not allowed", x.Name)
		case len(x.Name) > snapshot.MaxNameBytes || strings.IndexByte(x.Name, 0) >= 0:
			return fmt.Sprintf("attribute %.80q, which no file can have", x.Name)
		case i > 0 && xs[i-1].Name >= x.Name:
			return fmt.Sprintf("attribute %.80q out of order", x.Name)
		case x.Name == "system.posix_acl_access" && len(x.Value) < leastACL || x.Name == "system.posix_acl_default" && len(x.Value) < leastACL-8:
			return fmt.Sprintf("attribute %q that says no more than a mode: no file keeps it", x.Name)
		case len(x.Value) > snapshot.MaxXattrBytes:
			return fmt.Sprintf("attribute %.80q of %d bytes", x.Name, len(x.Value))
		}
	}
	return ""
}

func chunkFault(e *snapshot.Entry) string {
	end := int64(0)
	for _, c := range e.Chunks {
		switch {
		case c.Len <= 0 || c.Len > snapshot.MaxChunkBytes:
			return fmt.Sprintf("a chunk of %d bytes", c.Len)
		case c.Off < end:
			return fmt.Sprintf("a chunk at %d, before the end of the one before", c.Off)
		case c.Off > e.Size-c.Len:
			return fmt.Sprintf("a chunk of %d bytes at %d of a file of %d", c.Len, c.Off, e.Size)
		case c.ID.IsZero():
			return "a chunk without an id"
		}
		end = c.Off + c.Len
	}
	return ""
}

// group is the names of one hard-linked file that Validate has met.
type group struct {
	first *snapshot.Entry
	names int
}

// joinGroup checks e against the group of its Link, which its first name opens.
func joinGroup(groups map[string]*group, e *snapshot.Entry) string {
	if e.Link == "" {
		return ""
	}
	if e.Link == e.Path {
		groups[e.Path] = &group{first: e, names: 1}
		return ""
	}
	g := groups[e.Link]
	if g == nil {
		return fmt.Sprintf("a hard link to %.300q, which is not the first name of a group", e.Link)
	}
	if !sameInode(g.first, e) {
		return fmt.Sprintf("a hard link to %.300q, whose entry says otherwise", e.Link)
	}
	g.names++
	return ""
}
