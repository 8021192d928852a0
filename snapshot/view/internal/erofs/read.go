package erofs

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

var (
	// ErrNotImage says that a file is no complete image: it has no superblock, or
	// one that is damaged or not by Write.
	ErrNotImage = errors.New("not a complete EROFS image of ours")

	errDamaged = errors.New("damaged EROFS image")
)

// maxDirBytes bounds one directory that is read: 16 M entries of usual names.
const maxDirBytes = 1 << 29

// Image reads what Write wrote: the devices before a mount, and the places of a
// base's inodes for its child's image.
type Image struct {
	r     io.ReaderAt
	super superblock
	// Devices is what the image needs of the files that are mounted with it.
	Devices []Need
}

// Need says how much of one device an image refers to.
type Need struct {
	Tag   string
	Bytes int64
}

// Open reads the superblock and the device table.
func Open(r io.ReaderAt) (*Image, error) {
	var b [1<<maxBlockBits - superOffset]byte
	n, err := r.ReadAt(b[:], superOffset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("erofs: superblock: %w", err)
	}
	m := &Image{r: r}
	if n < superSize || !m.super.get(b[:n]) {
		return nil, ErrNotImage
	}
	table := make([]byte, int(m.super.devices)*deviceSize)
	if _, err := r.ReadAt(table, superOffset+superSize); err != nil {
		return nil, fmt.Errorf("erofs: device table: %w", err)
	}
	m.Devices = make([]Need, m.super.devices)
	for i := range m.Devices {
		slot := table[i*deviceSize:]
		m.Devices[i] = Need{
			Tag:   strings.TrimRight(string(slot[:tagSize]), "\x00"),
			Bytes: int64(le.Uint32(slot[tagSize:])) << m.super.bits,
		}
	}
	return m, nil
}

// UUID is that of the file system.
func (m *Image) UUID() [16]byte { return m.super.uuid }

// Inodes is how many there are.
func (m *Image) Inodes() uint64 { return m.super.inodes }

// Bytes is the size of the whole image.
func (m *Image) Bytes() int64 { return int64(m.super.blocks) << m.super.bits }

func (m *Image) block() int { return 1 << m.super.bits }

// get accepts what put wrote and nothing else.
func (s *superblock) get(b []byte) bool {
	s.bits = b[12]
	if s.bits < minBlockBits || s.bits > maxBlockBits || len(b) < checksumSpan(s.bits) {
		return false
	}
	if le.Uint32(b) != superMagic || checksum(b[:checksumSpan(s.bits)]) != le.Uint32(b[4:]) {
		return false
	}
	s.root = le.Uint16(b[14:])
	s.inodes = le.Uint64(b[16:])
	s.blocks = le.Uint32(b[36:])
	s.metaBlock = le.Uint32(b[40:])
	s.attrBlock = le.Uint32(b[44:])
	copy(s.uuid[:], b[48:])
	s.devices = le.Uint16(b[86:])
	again := make([]byte, superSize)
	s.put(again)
	copy(again[4:8], b[4:8])
	return slices.Equal(again, b[:superSize])
}

func (m *Image) inode(nid uint64) (inode, error) {
	var n inode
	var b [inodeSize]byte
	if nid >= 1<<32 {
		return n, fmt.Errorf("erofs: inode %d: %w", nid, errDamaged)
	}
	at := int64(m.super.metaBlock)<<m.super.bits + int64(nid)<<slotBits
	if _, err := m.r.ReadAt(b[:], at); err != nil {
		return n, fmt.Errorf("erofs: inode %d: %w", nid, err)
	}
	if !n.get(b[:]) {
		return n, fmt.Errorf("erofs: inode %d: %w", nid, errDamaged)
	}
	return n, nil
}

// dirData returns a directory's blocks.
func (m *Image) dirData(nid uint64) ([]byte, error) {
	n, err := m.inode(nid)
	if err != nil {
		return nil, err
	}
	if n.mode&modeType != modeDir || n.layout != layoutPlain || n.size > maxDirBytes || int64(n.size) > m.Bytes() {
		return nil, fmt.Errorf("erofs: inode %d as a directory: %w", nid, errDamaged)
	}
	data := make([]byte, n.size)
	if _, err := m.r.ReadAt(data, int64(n.union)<<m.super.bits); err != nil {
		return nil, fmt.Errorf("erofs: directory %d: %w", nid, err)
	}
	return data, nil
}
