package erofs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// noID is the one number that no user and no group can have.
const noID = 1<<32 - 1

// maxRedirect bounds an object's path. Overlay itself writes none longer than 256
// bytes, and follows all that the kernel takes for a path.
const maxRedirect = 4095

// checkEntry looks at e alone, for what would make the kernel refuse the image or
// show something else than e.
func checkEntry(e *snapshot.Entry) error {
	if _, _, ok := kindOf(e.Type); !ok {
		return fmt.Errorf("unknown type %d", e.Type)
	}
	switch {
	case e.Mode&^uint32(snapshot.ModeMask) != 0:
		return fmt.Errorf("mode %#o has other bits than permissions", e.Mode)
	case e.Size < 0 || e.Size > 0 && e.Type != snapshot.TypeFile:
		return fmt.Errorf("size %d of a %s", e.Size, e.Type)
	case e.UID == noID || e.GID == noID: // not even root may open a file of nobody's
		return fmt.Errorf("owner %d, group %d: %w", e.UID, e.GID, ErrTooLarge)
	case e.Link != "" && e.Type == snapshot.TypeDir:
		return errors.New("a hard link to a directory")
	}
	if e.Type != snapshot.TypeSymlink {
		if e.Target != "" {
			return fmt.Errorf("a %s with a target", e.Type)
		}
		return nil
	}
	if e.Target == "" || len(e.Target) > snapshot.MaxTargetBytes || strings.IndexByte(e.Target, 0) >= 0 {
		return errors.New("not a symlink's target")
	}
	return nil
}

// checkName looks at the last component of a path.
func checkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > snapshot.MaxNameBytes || strings.IndexByte(name, 0) >= 0 {
		return fmt.Errorf("%.300q is not a name", name)
	}
	return nil
}

// CheckEntry reports what Write would say of e alone, wherever its content lies.
func CheckEntry(e *snapshot.Entry) error {
	var x xattrs
	err := checkEntry(e)
	if err == nil {
		err = x.set(e, "")
	}
	if err != nil {
		return &EntryError{Path: e.Path, Err: err}
	}
	return nil
}

// CheckObject reports whether path can be a Content's Object.
func CheckObject(path string) error {
	if len(path) > maxRedirect {
		return fmt.Errorf("object %.300q: path of %d bytes: %w", path, len(path), ErrTooLarge)
	}
	rest, ok := strings.CutPrefix(path, "/")
	if !ok {
		return fmt.Errorf("object %q: not an absolute path", path)
	}
	for part := range strings.SplitSeq(rest, "/") {
		if checkName(part) != nil {
			return fmt.Errorf("object %q: not a clean path", path)
		}
	}
	return nil
}

// shape is how one inode looks in the image.
type shape struct {
	inode  inode
	attrs  int      // bytes behind the fixed part
	chunks chunkMap // of a file with a size
	inline int      // bytes of a symlink's target behind the attributes
	slots  uint32
}

// set decides the shape of e. x holds e's attributes afterwards. A directory's
// size and first block, and all links but one, are filled in later.
func (s *shape) set(e *snapshot.Entry, c Content, x *xattrs, block uint8, devices int) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	if e.Type != snapshot.TypeFile && (c.Object != "" || len(c.Extents) > 0) {
		return fmt.Errorf("content of a %s", e.Type)
	}
	if err := s.setContent(e, c, block, devices); err != nil {
		return err
	}
	if err := x.set(e, c.Object); err != nil {
		return err
	}
	_, mode, _ := kindOf(e.Type)
	s.inode.icount, s.inode.mode = x.icount(), mode|uint16(e.Mode)
	s.inode.uid, s.inode.gid, s.inode.nlink = e.UID, e.GID, 1
	s.inode.sec, s.inode.nsec = splitTime(e.MTime)
	s.attrs = x.bytes()

	tail := int64(0)
	switch s.inode.layout {
	case layoutChunks:
		tail = roundUp(int64(s.attrs), indexSize) - int64(s.attrs) + int64(s.chunks.n)*indexSize
	case layoutPlain:
		// Symlinks have no attributes that a snapshot keeps.
		if e.Type == snapshot.TypeSymlink && s.attrs == 0 && inodeSize+len(e.Target) <= 1<<block {
			s.inode.layout, s.inline = layoutInline, len(e.Target)
			tail = int64(s.inline)
		}
	}
	s.slots = uint32(roundUp(inodeSize+int64(s.attrs)+tail, slotSize) / slotSize)
	return nil
}

func (s *shape) setContent(e *snapshot.Entry, c Content, block uint8, devices int) error {
	s.inode = inode{size: uint64(e.Size)}
	s.inline, s.chunks = 0, chunkMap{}
	if e.Type == snapshot.TypeSymlink {
		s.inode.size = uint64(len(e.Target))
	}
	if c.Object != "" {
		if len(c.Extents) > 0 {
			return errors.New("content both in an object and in extents")
		}
		if err := CheckObject(c.Object); err != nil {
			return err
		}
	}
	if e.Size == 0 {
		if len(c.Extents) > 0 {
			return errors.New("extents of an empty file")
		}
		return nil
	}
	if err := s.chunks.set(e.Size, c.Extents, block, devices); err != nil {
		return err
	}
	if c.Object == "" {
		if err := checkCovered(e, c.Extents); err != nil {
			return err
		}
	}
	s.inode.layout = layoutChunks
	s.inode.union = uint32(s.chunks.bits) | chunkIndexes
	return nil
}

// put writes the inode to b, which has its slots and is zero.
func (s *shape) put(b []byte, nid uint32, e *snapshot.Entry, x *xattrs) {
	s.inode.put(b, nid)
	x.put(b[inodeSize:])
	switch at := inodeSize + s.attrs; s.inode.layout {
	case layoutChunks:
		s.chunks.put(b[roundUp(int64(at), indexSize):])
	case layoutInline:
		copy(b[at:], e.Target)
	}
}
