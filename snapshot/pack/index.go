package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/roost-ci/roost/snapshot"
)

// An index file. Numbers are little endian.
//
//	0         7         8               40                  72      73             81              89
//	+---------+---------+---------------+-------------------+-------+--------------+---------------+------+-----------------+
//	| RSTINDX | version | base manifest | snapshot manifest | codec | u64 bytes of | u64 bytes of  | body | SHA-256 of all  |
//	|         | 1       |               |                   |       | body, plain  | body, stored  |      | bytes before it |
//	+---------+---------+---------------+-------------------+-------+--------------+---------------+------+-----------------+
//
// The body is four tables, each behind its count: packs, frames, chunks, changes.
const (
	indexMagic = "RSTINDX"
	// indexV1 is the first: packs, frames, chunks, changes in one compressed body.
	indexV1     = 1
	indexHeader = 89
)

// What a change does; its first byte.
const (
	opPut     = 0
	opDelete  = 1
	opReplace = 2
)

// The smallest record of each table.
const (
	minPack  = 32 + 1 + 1
	minFrame = 1 + 1 + 1 + 1 + 1
	minChunk = 32 + 1 + 1 + 1
)

// WriteIndex writes ix and returns the SHA-256 of what was written, which is the
// blob's name. Chunks are written in the order in which the changes use them. Each
// file must be hashed and each of its chunks must be in ix.Chunks.
func WriteIndex(w io.Writer, ix *Index) (snapshot.Digest, error) {
	body, err := appendBody(nil, ix)
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("index: %w", err)
	}
	if int64(len(body)) > maxBody {
		return snapshot.Digest{}, fmt.Errorf("index: %d bytes, more than %d", len(body), int64(maxBody))
	}
	codec, stored := CodecRaw, body
	if z := compress(nil, body); len(z) < len(body) && len(body) <= maxRatio*len(z) {
		codec, stored = CodecZstd, z
	}
	out := &summed{w: w, h: sha256.New()}
	out.b = append(out.b, indexMagic...)
	out.b = append(out.b, indexV1)
	out.b = append(out.b, ix.Base[:]...)
	out.b = append(out.b, ix.Manifest[:]...)
	out.b = append(out.b, codec)
	out.b = binary.LittleEndian.AppendUint64(out.b, uint64(len(body)))
	out.b = binary.LittleEndian.AppendUint64(out.b, uint64(len(stored)))
	out.b = append(out.b, stored...)
	d, err := out.close()
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("index: %w", err)
	}
	return d, nil
}

// ReadIndex reads an index up to the end of r. Everything in it refers to
// something that is there; changes are sorted and valid one by one. It uses memory
// in proportion to what it reads, whatever that says of itself. Damage is a
// *snapshot.CorruptError, a later version wraps snapshot.ErrNewerFormat.
func ReadIndex(r io.Reader) (*Index, error) {
	b, err := readAll(r, maxBody+indexHeader+sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	ix, err := parseIndex(b)
	if err != nil {
		return nil, corrupt(indexWhat, sha256.Sum256(b), err)
	}
	return ix, nil
}

func parseIndex(b []byte) (*Index, error) {
	b, err := unseal(b, indexMagic, indexV1)
	if err != nil {
		return nil, err
	}
	if len(b) < indexHeader {
		return nil, errors.New("cut short")
	}
	ix := &Index{}
	copy(ix.Base[:], b[8:])
	copy(ix.Manifest[:], b[40:])
	plain, stored := binary.LittleEndian.Uint64(b[73:]), binary.LittleEndian.Uint64(b[81:])
	body := b[indexHeader:]
	if stored != uint64(len(body)) {
		return nil, fmt.Errorf("body has %d bytes and should have %d", len(body), stored)
	}
	switch codec := b[72]; codec {
	case CodecRaw:
		if plain != stored {
			return nil, fmt.Errorf("body is stored raw in %d bytes and should have %d", stored, plain)
		}
	case CodecZstd:
		if plain <= stored || plain > maxRatio*stored {
			return nil, fmt.Errorf("body says that it grows from %d to %d bytes", stored, plain)
		}
		if body, err = decompress(make([]byte, 0, plain), body); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
	default:
		return nil, fmt.Errorf("body has codec %d: %w", codec, snapshot.ErrNewerFormat)
	}
	if err := readBody(&cursor{b: body}, ix); err != nil {
		return nil, err
	}
	return ix, nil
}

func appendBody(b []byte, ix *Index) ([]byte, error) {
	if err := checkTables(ix); err != nil {
		return nil, err
	}
	if len(ix.Changes) > maxEntries {
		return nil, fmt.Errorf("%d changes, more than %d", len(ix.Changes), maxEntries)
	}
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
	b = appendFrames(b, ix.Frames)
	refs := newRefCodec(ix.Chunks)
	b = appendChunks(b, refs.inOrder(ix.Changes))
	return appendChanges(b, ix.Changes, refs)
}

func readBody(c *cursor, ix *Index) error {
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
	if c.err != nil {
		return c.err
	}
	if err := checkTables(ix); err != nil {
		return err
	}
	readChanges(c, ix)
	return c.end()
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
