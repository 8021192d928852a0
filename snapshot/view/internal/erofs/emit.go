package erofs

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

var errChanged = errors.New("the tree changed while it was written")

// write is the second walk: every inode goes to its place in the area, every
// directory to the image when it ends.
func (w *writer) write(tree Tree) error {
	var file Scratch
	if size := int64(w.area * slotSize); w.o.Scratch != nil {
		var err error
		if file, err = w.o.Scratch(size); err != nil {
			return fmt.Errorf("erofs: scratch file: %w", err)
		}
		w.scratch = file
	}
	w.inodes = newArea(int64(w.area*slotSize), file)
	w.out.off = roundUp(superOffset+superSize+int64(len(w.needs))*deviceSize, 1<<w.block)
	err := w.each(tree, w.writeEntry, w.leave)
	if err == nil && w.at != len(w.nids) {
		err = fmt.Errorf("erofs: %w", errChanged)
	}
	return err
}

func (w *writer) writeEntry(name string, e *snapshot.Entry, c Content) error {
	if w.at >= len(w.nids) {
		return errChanged
	}
	first, ok, err := w.isFirst(e)
	if err != nil {
		return err
	}
	nid, slots := w.nids[w.at], w.slots[w.at]
	ft, _, _ := kindOf(e.Type)
	if w.stack.depth > 0 {
		w.stack.top().add(name, nid, ft)
	}
	if !ok {
		if slots != linkFlag|uint32(first) {
			return errChanged
		}
		return w.writeLink(e, nid, w.slots[first]&slotsMask)
	}
	if err := w.shape.set(e, c, &w.x, w.block, len(w.needs)); err != nil {
		return err
	}
	if slots&linkFlag != 0 || w.shape.slots != slots&slotsMask || (w.shape.inline > 0) != (slots&inlineFlag != 0) {
		return errChanged
	}
	w.count++
	w.use(c.Extents)
	if e.Type == snapshot.TypeDir {
		w.enter(e, nid)
	}
	if e.Type == snapshot.TypeSymlink && w.shape.inline == 0 {
		if w.shape.inode.union, err = w.data([]byte(e.Target)); err != nil {
			return err
		}
	}
	b := w.inode(w.shape.slots)
	clear(b)
	w.shape.put(b, nid, e, &w.x)
	return w.inodes.write(inodeAt(nid), b)
}

// inodeAt is where in the area an inode is.
func inodeAt(nid uint32) int64 { return int64(nid) * slotSize }

// inode is room for one of so many slots, until the next one.
func (w *writer) inode(slots uint32) []byte {
	n := int(slots) * slotSize
	if len(w.one) < n {
		w.one = make([]byte, n)
	}
	return w.one[:n]
}

// writeLink adds a name to the inode at nid, of so many slots, which e must describe as
// its first name did. Content is the first name's.
func (w *writer) writeLink(e *snapshot.Entry, nid, slots uint32) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	if err := w.x.set(e, ""); err != nil {
		return err
	}
	b := w.inode(slots)
	if err := w.inodes.read(inodeAt(nid), b); err != nil {
		return err
	}
	var n inode
	n.get(b)
	_, mode, _ := kindOf(e.Type)
	sec, nsec := splitTime(e.MTime)
	same := n.mode == mode|uint16(e.Mode) && n.uid == e.UID && n.gid == e.GID && n.sec == sec && n.nsec == nsec &&
		w.x.in(b[inodeSize:inodeSize+attrBytes(n.icount)])
	if e.Type == snapshot.TypeFile {
		same = same && n.size == uint64(e.Size)
	}
	if e.Type == snapshot.TypeSymlink {
		same = same && n.size == uint64(len(e.Target)) &&
			(n.layout != layoutInline || bytes.HasPrefix(b[inodeSize:], []byte(e.Target)))
	}
	if !same {
		return fmt.Errorf("it and %.300q are one file, but not alike", e.Link)
	}
	le.PutUint32(b[inodeLinksAt:], n.nlink+1)
	return w.inodes.write(inodeAt(nid), b)
}

// use notes how far the extents reach into their devices.
func (w *writer) use(extents []Extent) {
	for i := range extents {
		x := &extents[i]
		w.needs[x.Device] = max(w.needs[x.Device], roundUp(x.At+x.Len, 1<<w.block))
	}
}

// enter starts the directory e, whose inode has no size yet.
func (w *writer) enter(e *snapshot.Entry, nid uint32) {
	parent := nid
	if w.stack.depth > 0 {
		w.stack.top().subdirs++
		parent = w.stack.top().nid
	}
	f := w.stack.push(e.Path)
	f.nid, f.parent, f.dots, f.subdirs = nid, parent, 0, 0
	f.data.reset(1 << w.block)
}

// dots are the entries that every directory has. They stand where they sort.
var dots = [...]string{".", ".."}

func (f *frame) add(name string, nid uint32, ft uint8) {
	for f.dots < len(dots) && dots[f.dots] < name {
		f.addDot()
	}
	f.data.add(name, nid, ft)
}

func (f *frame) addDot() {
	f.data.add(dots[f.dots], [...]uint32{f.nid, f.parent}[f.dots], ftDir)
	f.dots++
}

// leave ends the directory on top of the stack.
func (w *writer) leave() error {
	f := w.stack.top()
	for f.dots < len(dots) {
		f.addDot()
	}
	data := f.data.end()
	block, err := w.data(data)
	if err != nil {
		return err
	}
	b := w.inode(inodeSize / slotSize)
	if err := w.inodes.read(inodeAt(f.nid), b); err != nil {
		return err
	}
	le.PutUint64(b[inodeSizeAt:], uint64(len(data)))
	le.PutUint32(b[inodeUnionAt:], block)
	le.PutUint32(b[inodeLinksAt:], 2+f.subdirs)
	return w.inodes.write(inodeAt(f.nid), b)
}

// data writes b in blocks of its own and returns the first one's address.
func (w *writer) data(b []byte) (uint32, error) {
	at, err := w.room(int64(len(b)))
	if err != nil {
		return 0, err
	}
	if err := w.out.write(b); err != nil {
		return 0, err
	}
	return at, w.out.align(1 << w.block)
}

// room returns the address of the next n bytes.
func (w *writer) room(n int64) (uint32, error) {
	at := w.out.pos() >> w.block
	if at+n>>w.block > maxBlocks {
		return 0, fmt.Errorf("erofs: directories: %w", ErrTooLarge)
	}
	return uint32(at), nil
}

// finish writes what follows the directories, then the superblock.
//
// Crash states: before the last write there is no superblock and nobody mounts
// the file; it has no name by then either, since the caller writes to a temporary
// file and syncs it before it gets one.
func (w *writer) finish() (Info, error) {
	s := superblock{
		bits: w.block, root: uint16(w.nids[0]), inodes: uint64(w.count),
		uuid: UUID(w.o.Manifest), devices: uint16(len(w.needs)),
	}
	var err error
	if s.attrBlock, err = w.data(w.x.area); err != nil {
		return Info{}, err
	}
	if s.metaBlock, err = w.room(w.inodes.size); err != nil {
		return Info{}, err
	}
	if err := w.inodes.copyTo(w.out.write); err != nil {
		return Info{}, err
	}
	if err := w.out.align(1 << w.block); err != nil {
		return Info{}, err
	}
	bytes := w.out.pos()
	if bytes>>w.block > maxBlocks {
		return Info{}, fmt.Errorf("erofs: image of %d bytes: %w", bytes, ErrTooLarge)
	}
	s.blocks = uint32(bytes >> w.block)
	if err := w.out.flush(); err != nil {
		return Info{}, err
	}
	fail.Point("erofs.write.super")
	info := Info{UUID: s.uuid, Bytes: bytes, Inodes: w.count, Kept: w.kept, Devices: w.devices()}
	return info, w.writeHead(&s)
}

func (w *writer) devices() []Need {
	d := make([]Need, len(w.needs))
	for i := range d {
		d[i] = Need{Tag: w.o.Devices[i], Bytes: w.needs[i]}
	}
	return d
}

// writeHead writes the superblock and the device table.
func (w *writer) writeHead(s *superblock) error {
	size := roundUp(superOffset+superSize+int64(len(w.needs))*deviceSize, 1<<w.block)
	head := make([]byte, max(size, superOffset+int64(checksumSpan(w.block))))
	sb := head[superOffset:]
	s.put(sb)
	for i, need := range w.needs {
		slot := sb[superSize+i*deviceSize:]
		copy(slot[:tagSize], w.o.Devices[i])
		le.PutUint32(slot[tagSize:], uint32(need>>w.block))
	}
	le.PutUint32(sb[4:], checksum(sb[:checksumSpan(w.block)]))
	if _, err := w.out.w.WriteAt(head, 0); err != nil {
		return fmt.Errorf("erofs: write superblock: %w", err)
	}
	return nil
}
