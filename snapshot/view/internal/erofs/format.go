package erofs

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/roost-ci/roost/snapshot"
)

// Sizes and places of the on-disk structures.
const (
	superOffset = 1024
	superSize   = 128
	deviceSize  = 128
	tagSize     = 64 // of a device's tag, at the start of its slot
	inodeSize   = 64 // the extended form: nanoseconds, 32-bit owners
	direntSize  = 12
	indexSize   = 8 // of a chunk index
	slotBits    = 5 // a nid counts slots of 32 bytes
	slotSize    = 1 << slotBits

	superMagic = 0xE0F5E1E2
)

// Block sizes. Options.BlockBits says why 512 is the default.
const (
	DefaultBlockBits = 9
	minBlockBits     = 9
	maxBlockBits     = 12 // the smallest page of a host that we know
)

// Feature flags. Those of "compat" may be unknown to the kernel.
const (
	compatChecksum   = 0x1
	compatMTime      = 0x2 // times are mtimes
	incompatChunked  = 0x4
	incompatDevices  = 0x8
	maxDevices       = 1<<16 - 2 // device ids are 16 bits, 0 is the image itself
	maxRootNID       = 1<<16 - 1 // it has 16 bits in the superblock
	maxBlocks        = 1<<32 - 2 // addresses have 32 bits, all ones is a hole
	nullBlock        = 1<<32 - 1
	maxChunkBits     = 31 // of a chunk, in blocks
	chunkIndexes     = 0x20
	maxXattrIcount   = 1<<16 - 1
	maxSharedXattrs  = 1<<8 - 1
	maxInlineXattr   = 512 // a larger one is shared
	xattrHeaderSize  = 12
	xattrEntrySize   = 4
	maxXattrValue    = 1<<16 - 1
	maxXattrNameSize = 255
)

// Data layouts of an inode, and the bit that marks the extended form.
const (
	layoutPlain  = 0 // blocks in the image from startblk on
	layoutInline = 2 // the last, here only, block stands behind the inode
	layoutChunks = 4 // chunk indexes stand behind the inode

	formatExtended = 1
	formatShift    = 1 // of the layout
)

// File types in directory entries, and in modes.
const (
	ftFile    = 1
	ftDir     = 2
	ftFifo    = 5
	ftSocket  = 6
	ftSymlink = 7

	modeFifo    = 0o010000
	modeDir     = 0o040000
	modeFile    = 0o100000
	modeSymlink = 0o120000
	modeSocket  = 0o140000
	modeType    = 0o170000
)

// kindOf returns the two numbers of t, false for a type that no image can hold.
func kindOf(t snapshot.Type) (ft uint8, mode uint16, ok bool) {
	switch t {
	case snapshot.TypeDir:
		return ftDir, modeDir, true
	case snapshot.TypeFile:
		return ftFile, modeFile, true
	case snapshot.TypeSymlink:
		return ftSymlink, modeSymlink, true
	case snapshot.TypeFifo:
		return ftFifo, modeFifo, true
	case snapshot.TypeSocket:
		return ftSocket, modeSocket, true
	}
	return 0, 0, false
}

var le = binary.LittleEndian

// superblock is what of the superblock is ours to choose.
//
//	 0 magic   4 checksum   8 compat   12 block bits  13 extra slots  14 root nid
//	16 inodes (8)          24 epoch (8)               32 nanoseconds
//	36 blocks  40 meta block  44 xattr block   48 uuid (16)   64 volume name (16)
//	80 incompat 84 algorithms  86 devices  88 device slot  90 ... zero
type superblock struct {
	bits      uint8
	root      uint16
	inodes    uint64
	blocks    uint32
	metaBlock uint32
	attrBlock uint32
	uuid      [16]byte
	devices   uint16
}

// deviceTableSlot is where the device table starts, in units of its slots.
const deviceTableSlot = (superOffset + superSize) / deviceSize

func (s *superblock) put(b []byte) {
	incompat := uint32(incompatChunked)
	if s.devices > 0 {
		incompat |= incompatDevices
	}
	le.PutUint32(b, superMagic)
	le.PutUint32(b[8:], compatChecksum|compatMTime)
	b[12] = s.bits
	le.PutUint16(b[14:], s.root)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	le.PutUint32(b[44:], s.attrBlock)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], incompat)
	le.PutUint16(b[86:], s.devices)
	le.PutUint16(b[88:], deviceTableSlot)
}

// checksumSpan is how many bytes from the superblock on its checksum covers: to
// the end of its block, or one block where it starts one.
func checksumSpan(bits uint8) int {
	if n := 1 << bits; n > superOffset {
		return n - superOffset
	} else {
		return n
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is the kernel's crc32c of b, whose own checksum field counts as zero:
// started at ~0 as usual, but not inverted at the end.
func checksum(b []byte) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:4])
	c = crc32.Update(c, castagnoli, zero[:])
	return ^crc32.Update(c, castagnoli, b[8:])
}

// inode is the fixed part of an inode.
//
//	 0 format  2 xattr count  4 mode  6 zero  8 size (8)  16 union  20 ino
//	24 uid    28 gid         32 mtime (8)    40 nsec     44 nlink  48 zero (16)
type inode struct {
	layout uint16
	icount uint16
	mode   uint16
	size   uint64
	union  uint32 // first block, or the format of the chunk indexes
	uid    uint32
	gid    uint32
	sec    int64
	nsec   uint32
	nlink  uint32
}

// Places of the fields that are set after the rest of the inode.
const (
	inodeSizeAt  = 8
	inodeUnionAt = 16
	inodeLinksAt = 44
)

func (n *inode) put(b []byte, nid uint32) {
	le.PutUint16(b, formatExtended|n.layout<<formatShift)
	le.PutUint16(b[2:], n.icount)
	le.PutUint16(b[4:], n.mode)
	le.PutUint64(b[inodeSizeAt:], n.size)
	le.PutUint32(b[inodeUnionAt:], n.union)
	le.PutUint32(b[20:], nid)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.sec))
	le.PutUint32(b[40:], n.nsec)
	le.PutUint32(b[inodeLinksAt:], n.nlink)
}

func (n *inode) get(b []byte) (extended bool) {
	f := le.Uint16(b)
	n.layout = f >> formatShift & 7
	n.icount = le.Uint16(b[2:])
	n.mode = le.Uint16(b[4:])
	n.size = le.Uint64(b[inodeSizeAt:])
	n.union = le.Uint32(b[inodeUnionAt:])
	n.uid = le.Uint32(b[24:])
	n.gid = le.Uint32(b[28:])
	n.sec = int64(le.Uint64(b[32:]))
	n.nsec = le.Uint32(b[40:])
	n.nlink = le.Uint32(b[inodeLinksAt:])
	return f&formatExtended != 0 && f>>4 == 0
}

// attrBytes is the size of the attributes behind an inode with this count.
func attrBytes(icount uint16) int64 {
	if icount == 0 {
		return 0
	}
	return xattrHeaderSize + 4*(int64(icount)-1)
}

// splitTime gives seconds, rounded down, and the nanoseconds above them: times
// before 1970 have negative seconds and never negative nanoseconds.
func splitTime(ns int64) (sec int64, nsec uint32) {
	sec, rest := ns/1e9, ns%1e9
	if rest < 0 {
		sec, rest = sec-1, rest+1e9
	}
	return sec, uint32(rest)
}

func roundUp(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
