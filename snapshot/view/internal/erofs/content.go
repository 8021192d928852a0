package erofs

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/roost-ci/roost/snapshot"
)

// Tree walks the entries of one snapshot in manifest order, root first, calls
// visit for each and returns its first error. Write walks it twice and must hear
// the same both times. What visit gets is not kept after it returned, strings
// aside.
type Tree func(visit func(e *snapshot.Entry, c Content) error) error

// Entries is the Tree of m, whose files lie where place says. Place is called
// for files only, twice each, and may return the same slice again and again.
func Entries(m *snapshot.Manifest, place func(e *snapshot.Entry) (Content, error)) Tree {
	return func(visit func(*snapshot.Entry, Content) error) error {
		for i := range m.Entries {
			e := &m.Entries[i]
			var c Content
			if e.Type == snapshot.TypeFile {
				var err error
				if c, err = place(e); err != nil {
					return fmt.Errorf("place of %q: %w", e.Path, err)
				}
			}
			if err := visit(e, c); err != nil {
				return err
			}
		}
		return nil
	}
}

// Content is where a file's bytes lie: in extents, in an object, or nowhere, for
// an empty file and for one of holes only. Of a hard-linked file the first name's
// Content counts.
type Content struct {
	// Object is the path of the file's object in one of the data-only lowers of
	// the overlay mount above, such as "/ab/cdef…". Read through such a mount the
	// file has the object's bytes; in the bare image it is a hole.
	Object string
	// Extents ascend by Off and do not overlap. What lies between them is a hole.
	Extents []Extent
}

// Extent is a run of a file's bytes in a device. Off, At and Len are multiples of
// the block size, save that Len may end with the file. The device's bytes from
// there to the end of the block must exist and be zero: mmap shows them.
type Extent struct {
	Off    int64 // in the file
	Len    int64
	Device int   // in Options.Devices
	At     int64 // in the device
}

// MaxIndexes bounds the chunk indexes of one file. A sparse file whose data lies
// at awkward offsets can need one for every block that it spans; such a file must
// be an object.
const MaxIndexes = 1 << 16

// ErrTooLarge is the Err of an EntryError when an entry is in order but an image
// can't express it: the caller has to place it otherwise.
var ErrTooLarge = errors.New("does not fit in an EROFS image")

// EntryError says which entry Write did not take. Err wraps ErrTooLarge or says
// what is wrong with the manifest or the place.
type EntryError struct {
	Path string
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("erofs: entry %q: %v", e.Path, e.Err) }

// Unwrap returns Err.
func (e *EntryError) Unwrap() error { return e.Err }

// chunkMap is a file cut in chunks of equal size, a power of two: each is a hole
// or lies in one piece in a device. The largest size that does it is taken, so
// the usual file, one extent, has one chunk.
type chunkMap struct {
	bits    uint // of a chunk, in blocks
	n       int
	block   uint // bits of a block
	extents []Extent
}

func (m *chunkMap) set(size int64, extents []Extent, block uint8, devices int) error {
	if err := checkExtents(size, extents, block, devices); err != nil {
		return err
	}
	blocks := uint64(size) >> block
	if size&(1<<block-1) != 0 {
		blocks++
	}
	m.block, m.extents = uint(block), extents
	m.bits = min(uint(bits.Len64(max(blocks, 1)-1)), maxChunkBits)
	m.bits = min(m.bits, alignment(size, extents)-m.block)
	n := (blocks + 1<<m.bits - 1) >> m.bits
	if n > MaxIndexes {
		return fmt.Errorf("%w: %d chunk indexes, at most %d", ErrTooLarge, n, MaxIndexes)
	}
	m.n = int(n)
	return nil
}

// alignment is the number of low bits that are zero in every offset at which the
// mapping of the file takes a turn.
func alignment(size int64, extents []Extent) uint {
	turns, end := uint64(0), int64(0)
	for i := range extents {
		x := &extents[i]
		if x.Off != end {
			turns |= uint64(end) | uint64(x.Off) // a hole between
		} else if i > 0 && !follows(&extents[i-1], x) {
			turns |= uint64(x.Off)
		}
		end = x.Off + x.Len
	}
	if end < size {
		turns |= uint64(end)
	}
	return uint(bits.TrailingZeros64(turns))
}

func follows(a, b *Extent) bool { return a.Device == b.Device && a.At+a.Len == b.At }

func checkExtents(size int64, extents []Extent, block uint8, devices int) error {
	mask, end := int64(1)<<block-1, int64(0)
	for _, x := range extents {
		switch {
		case x.Off < end || x.Len <= 0 || x.Off > size || x.Len > size-x.Off:
			return fmt.Errorf("extent of %d bytes at %d: not in order or beyond the size %d", x.Len, x.Off, size)
		case x.Off&mask != 0 || x.At&mask != 0 || x.Len&mask != 0 && x.Off+x.Len != size:
			return fmt.Errorf("extent of %d bytes at %d, in the device at %d: not aligned to blocks of %d", x.Len, x.Off, x.At, mask+1)
		case x.Device < 0 || x.Device >= devices:
			return fmt.Errorf("extent in device %d of %d", x.Device, devices)
		case x.At < 0:
			return fmt.Errorf("extent at %d of its device", x.At)
		case x.At>>block > maxBlocks || x.Len>>block > maxBlocks || (x.At+roundUp(x.Len, mask+1))>>block > maxBlocks:
			return fmt.Errorf("extent at %d of its device: %w", x.At, ErrTooLarge)
		}
		end = x.Off + x.Len
	}
	return nil
}

// put writes the n indexes.
func (m *chunkMap) put(b []byte) {
	x := 0
	for i := range m.n {
		off := int64(i) << (m.bits + m.block)
		for x < len(m.extents) && m.extents[x].Off+m.extents[x].Len <= off {
			x++
		}
		p := b[i*indexSize:]
		if x == len(m.extents) || m.extents[x].Off > off {
			le.PutUint64(p, nullBlock<<32)
			continue
		}
		e := &m.extents[x]
		le.PutUint16(p, 0)
		le.PutUint16(p[2:], uint16(e.Device+1))
		le.PutUint32(p[4:], uint32((e.At+off-e.Off)>>m.block))
	}
}

// checkCovered makes sure that no byte of e which is not known to be in a hole
// lacks a place: it would silently read as zero.
func checkCovered(e *snapshot.Entry, extents []Extent) error {
	i := 0
	covered := func(off, end int64) error {
		for off < end {
			for i < len(extents) && extents[i].Off+extents[i].Len <= off {
				i++
			}
			if i == len(extents) || extents[i].Off > off {
				return fmt.Errorf("no place is given for its bytes from %d on", off)
			}
			off = extents[i].Off + extents[i].Len
		}
		return nil
	}
	if e.Chunks == nil {
		return covered(0, e.Size)
	}
	for _, c := range e.Chunks {
		if c.Off < 0 || c.Len < 0 || c.Off > e.Size || c.Len > e.Size-c.Off {
			return fmt.Errorf("chunk of %d bytes at %d is beyond the size %d", c.Len, c.Off, e.Size)
		}
		if err := covered(c.Off, c.Off+c.Len); err != nil {
			return err
		}
	}
	return nil
}
