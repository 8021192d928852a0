package pack

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/roost-ci/roost/snapshot"
)

// The smallest record of each table.
const (
	minPack  = 32 + 1 + 1
	minFrame = 1 + 1 + 1 + 1 + 1
	minChunk = 32 + 1 + 1 + 1
	// typicalChange is about what a change takes: more than most.
	typicalChange = 40
)

func appendBody(b []byte, ix *Index) ([]byte, error) {
	ids, err := checkTables(ix)
	if err != nil {
		return nil, err
	}
	if len(ix.Changes) > maxEntries {
		return nil, fmt.Errorf("%d changes, more than %d", len(ix.Changes), maxEntries)
	}
	refs := &refCodec{chunks: ix.Chunks, place: ids}
	b = appendTables(slices.Grow(b, tablesBytes(ix)+typicalChange*len(ix.Changes)), ix, refs.inOrder(ix.Changes))
	return appendChanges(b, ix.Changes, refs)
}

// tablesBytes is about what appendTables appends: mostly more.
func tablesBytes(ix *Index) int {
	return (minPack+4)*len(ix.Packs) + (minFrame+6)*len(ix.Frames) + (minChunk+2)*len(ix.Chunks) + 64
}

// appendTables appends all tables but the changes. chunks are those of ix in the order
// in which the changes use them.
func appendTables(b []byte, ix *Index, chunks []ChunkRef) []byte {
	b = binary.AppendUvarint(b, uint64(len(ix.Packs)))
	for _, p := range ix.Packs {
		b = append(b, p.Digest[:]...)
		b = binary.AppendUvarint(b, uint64(p.Bytes))
		own := byte(0)
		if p.Own {
			own = 1
		}
		b = append(b, own)
	}
	return appendChunks(appendFrames(b, ix.Frames), chunks)
}

func readBody(c *cursor, ix *Index) error {
	readTables(c, ix)
	if c.err != nil {
		return c.err
	}
	if _, err := checkTables(ix); err != nil {
		return err
	}
	readChanges(c, ix)
	return c.end()
}

// readTables reads all tables but the changes.
func readTables(c *cursor, ix *Index) {
	ix.Packs = make([]Pack, c.count("number of packs", minPack))
	for i := range ix.Packs {
		p := &ix.Packs[i]
		p.Digest = c.digest()
		p.Bytes = int64(c.uvarint("size of a pack", maxPackBytes))
		own := c.byte()
		if own > 1 {
			c.fail("pack %d: own is %d", i, own)
		}
		p.Own = own == 1
	}
	readFrames(c, ix)
	readChunks(c, ix)
}

func appendFrames(b []byte, frames []Frame) []byte {
	b = binary.AppendUvarint(b, uint64(len(frames)))
	pack, end := 0, int64(packHeader)
	for _, f := range frames {
		b = binary.AppendUvarint(b, uint64(f.Pack-pack))
		if f.Pack != pack {
			pack, end = f.Pack, packHeader
		}
		b = binary.AppendUvarint(b, uint64(f.Off-end))
		b = binary.AppendUvarint(b, uint64(f.Stored))
		b = binary.AppendUvarint(b, uint64(f.Plain))
		b = append(b, f.Codec)
		end = f.Off + int64(f.Stored)
	}
	return b
}

func readFrames(c *cursor, ix *Index) {
	ix.Frames = make([]Frame, c.count("number of frames", minFrame))
	pack, end := 0, int64(packHeader)
	for i := range ix.Frames {
		f := &ix.Frames[i]
		step := int(c.uvarint("step to a frame's pack", uint64(len(ix.Packs))))
		if step > 0 {
			pack, end = pack+step, packHeader
		}
		f.Pack = pack
		f.Off = end + int64(c.uvarint("gap before a frame", maxPackBytes))
		f.Stored = uint32(c.uvarint("stored size of a frame", 2*snapshot.MaxChunkBytes))
		f.Plain = uint32(c.uvarint("plain size of a frame", snapshot.MaxChunkBytes))
		f.Codec = c.byte()
		if c.err != nil {
			return
		}
		end = f.Off + int64(f.Stored)
	}
}

// appendChunks puts the ids in a row of their own: they don't compress, the rest
// does.
func appendChunks(b []byte, chunks []ChunkRef) []byte {
	b = binary.AppendUvarint(b, uint64(len(chunks)))
	for _, c := range chunks {
		b = append(b, c.ID[:]...)
	}
	frame, end := 0, int64(0)
	for _, c := range chunks {
		b = appendSvarint(b, int64(c.Frame-frame))
		if c.Frame != frame {
			frame, end = c.Frame, 0
		}
		b = appendSvarint(b, int64(c.Off)-end)
		b = binary.AppendUvarint(b, uint64(c.Len))
		end = int64(c.Off) + int64(c.Len)
	}
	return b
}

func readChunks(c *cursor, ix *Index) {
	ix.Chunks = make([]ChunkRef, c.count("number of chunks", minChunk))
	for i := range ix.Chunks {
		ix.Chunks[i].ID = c.digest()
	}
	frame, end := int64(0), int64(0)
	for i := range ix.Chunks {
		ch := &ix.Chunks[i]
		if step := c.svarint("step to a chunk's frame"); step != 0 {
			if step < -frame || step >= int64(len(ix.Frames))-frame {
				c.fail("chunk %d: frame out of range", i)
				return
			}
			frame, end = frame+step, 0
		}
		ch.Frame = int(frame)
		step := c.svarint("step to a chunk")
		if step < -end || step > math.MaxUint32-end {
			c.fail("chunk %d: offset out of range", i)
			return
		}
		ch.Off = uint32(end + step)
		ch.Len = uint32(c.uvarint("length of a chunk", snapshot.MaxChunkBytes))
		if c.err != nil {
			return
		}
		end = int64(ch.Off) + int64(ch.Len)
	}
}
