package snapshot

import (
	"bytes"
	"slices"
	"sort"
)

// Type is what an entry is.
type Type uint8

// The types of entry that a snapshot keeps. Device nodes are not among them: they are
// an *UnsupportedError when a view is sealed.
const (
	TypeDir     Type = 1
	TypeFile    Type = 2
	TypeSymlink Type = 3
	TypeFifo    Type = 4
	TypeSocket  Type = 5
)

// String returns the name used in errors and listings.
func (t Type) String() string {
	switch t {
	case TypeDir:
		return "directory"
	case TypeFile:
		return "file"
	case TypeSymlink:
		return "symlink"
	case TypeFifo:
		return "fifo"
	case TypeSocket:
		return "socket"
	}
	return "unknown"
}

// Limits of what a manifest may say. A reader checks them before it allocates.
const (
	MaxPathBytes   = 4096    // of a whole path; a component has at most 255
	MaxNameBytes   = 255     // of one component
	MaxTargetBytes = 4095    // of a symlink's target
	MaxXattrBytes  = 1 << 16 // of one value
	MaxXattrs      = 256     // on one entry
	MaxChunkBytes  = 4 << 20 // of one chunk's plain bytes
)

// ModeMask is the part of a mode that a manifest keeps: permissions, setuid,
// setgid and sticky.
const ModeMask = 0o7777

// Xattr is one extended attribute. Names are unique within an entry and sorted.
type Xattr struct {
	Name  string
	Value []byte
}

// Chunk is a piece of a file's content: Len plain bytes at offset Off whose keyed
// digest is ID. Chunks of a file ascend and do not overlap; what lies between
// them, and behind the last one up to the file's size, is a hole.
type Chunk struct {
	Off int64
	Len int64
	ID  Digest
}

// Entry is one name in a tree.
//
// Every name of a hard-linked file has an entry of its own that says everything
// (mode, content, ...), and all of them carry the same Link.
type Entry struct {
	Path   string // relative, slash-separated, bytes as on disk; "" is the root itself
	Type   Type
	Mode   uint32 // & ModeMask
	UID    uint32
	GID    uint32
	MTime  int64 // nanoseconds since 1970, may be negative
	Size   int64 // of a file; else 0
	Target string
	Xattrs []Xattr
	Chunks []Chunk
	// Link is the first path, in manifest order, among the names of one
	// hard-linked file; "" when the file has one name in this tree.
	Link string
	// Source is an absolute path on this host where a file's content can be read
	// now, "" when it is known by Chunks alone. It is never stored in a manifest,
	// never sent, and takes no part in Equal.
	Source string
	// SourceAt is where in Source the content begins. 0 says that Source is the file
	// itself; greater, that it is a bundle, which holds this content, as one run of
	// Size bytes, among others.
	SourceAt int64 `json:",omitempty"`
}

// FirstLink reports whether e is the first of its hard links, or the only name of what it
// is: what counts content, or writes it, does so for these entries.
func (e *Entry) FirstLink() bool { return e.Link == "" || e.Link == e.Path }

// Hashed reports whether e's content is known by digest: it is not a file, or
// its chunks have been computed. A file of holes only has no chunks; it is hashed
// once Source has been read, which callers mark by an empty non-nil Chunks.
func (e *Entry) Hashed() bool {
	return e.Type != TypeFile || e.Size == 0 || e.Chunks != nil
}

// Equal reports whether two entries say the same, Source aside.
func (e *Entry) Equal(o *Entry) bool {
	return e.Path == o.Path && e.Link == o.Link && e.MTime == o.MTime && e.SameButTime(o)
}

// SameButTime reports whether e and o have the same type, mode, owner, content,
// target and xattrs. Paths, links and mtimes are not compared.
func (e *Entry) SameButTime(o *Entry) bool {
	return e.Type == o.Type && e.Mode == o.Mode && e.UID == o.UID && e.GID == o.GID &&
		e.Target == o.Target && e.SameContent(o) && EqualXattrs(e.Xattrs, o.Xattrs)
}

// SameContent reports whether e and o are known to hold the same bytes: by their
// chunks where both are hashed, else by being the very same sealed file. Two
// unhashed files at different places are not known to be equal, and neither are
// two lists of chunks that were cut at different places.
func (e *Entry) SameContent(o *Entry) bool {
	if e.Size != o.Size {
		return false
	}
	if e.Hashed() && o.Hashed() {
		return slices.Equal(e.Chunks, o.Chunks)
	}
	return e.Source != "" && e.Source == o.Source && e.SourceAt == o.SourceAt
}

// KnownToDiffer reports whether e and o are known to hold other bytes: by their
// sizes, or by chunks that cover the same place. If neither this nor SameContent
// is true, only reading tells.
func (e *Entry) KnownToDiffer(o *Entry) bool {
	if e.Size != o.Size {
		return true
	}
	if !e.Hashed() || !o.Hashed() {
		return false
	}
	a, b := e.Chunks, o.Chunks
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Off < b[0].Off:
			a = a[1:]
		case a[0].Off > b[0].Off:
			b = b[1:]
		case a[0].Len == b[0].Len && a[0].ID != b[0].ID:
			return true
		default:
			a, b = a[1:], b[1:]
		}
	}
	return false
}

// EqualXattrs compares two sorted lists.
func EqualXattrs(a, b []Xattr) bool {
	return slices.EqualFunc(a, b, func(x, y Xattr) bool {
		return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
	})
}

// ComparePaths is the order of a manifest: component by component, bytewise, a
// directory before what is in it. So all of a directory's entries stand together.
func ComparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		x, y := a[i], b[i]
		if x == y {
			continue
		}
		if x == '/' {
			return -1
		}
		if y == '/' {
			return 1
		}
		if x < y {
			return -1
		}
		return 1
	}
	return len(a) - len(b)
}

// Manifest is the list of a snapshot's entries in the order of ComparePaths,
// each path once, the root first.
type Manifest struct {
	Entries []Entry
}

// Find returns the entry at path. The pointer is into the manifest.
func (m *Manifest) Find(path string) (*Entry, bool) {
	i := sort.Search(len(m.Entries), func(i int) bool {
		return ComparePaths(m.Entries[i].Path, path) >= 0
	})
	if i < len(m.Entries) && m.Entries[i].Path == path {
		return &m.Entries[i], true
	}
	return nil, false
}

// Under returns the entries strictly below the directory at path.
func (m *Manifest) Under(path string) []Entry {
	if path == "" {
		if len(m.Entries) > 0 && m.Entries[0].Path == "" {
			return m.Entries[1:]
		}
		return m.Entries
	}
	lo := sort.Search(len(m.Entries), func(i int) bool {
		return ComparePaths(m.Entries[i].Path, path+"/") >= 0
	})
	hi := lo
	for hi < len(m.Entries) && len(m.Entries[hi].Path) > len(path) &&
		m.Entries[hi].Path[:len(path)] == path && m.Entries[hi].Path[len(path)] == '/' {
		hi++
	}
	return m.Entries[lo:hi]
}

// Bytes is the sum of the files' sizes, hard-linked content counted once.
func (m *Manifest) Bytes() int64 {
	var n int64
	for i := range m.Entries {
		if e := &m.Entries[i]; e.FirstLink() {
			n += e.Size
		}
	}
	return n
}

// Change is one difference between a base and a tree. Delete removes the entry at
// Entry.Path and everything below it; otherwise Entry is what is there now. A
// change of a directory into something else removes what was below it; a change
// of something else into a directory, or of a directory's own metadata, says
// nothing of its children.
//
// Lists of changes are sorted like a manifest, each path once. Nothing below a
// deleted path is listed. A directory deleted and made anew is listed as Replace
// with its new entry: what the base had below it is gone.
type Change struct {
	Delete  bool
	Replace bool
	Entry   Entry
}
