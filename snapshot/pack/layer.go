package pack

import (
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Codecs of a frame, the same in memory and on disk.
const (
	CodecRaw  byte = 0 // stored as is
	CodecZstd byte = 1 // one zstd frame that declares its content size
)

// Pack is a file of frames.
type Pack struct {
	Digest snapshot.Digest // SHA-256 of the whole file
	Bytes  int64           // of the whole file
	// Own says that this layer made the pack. The others belong to ancestors;
	// some of their chunks are used again.
	Own bool
}

// Frame is a piece of a pack that is decompressed as a whole.
type Frame struct {
	Pack   int    // index into Index.Packs
	Off    int64  // of its first stored byte in the pack
	Stored uint32 // bytes in the pack
	Plain  uint32 // bytes when decompressed, at most snapshot.MaxChunkBytes
	Codec  byte
}

// ChunkRef says where a chunk's plain bytes are.
type ChunkRef struct {
	ID    snapshot.Digest // HMAC-SHA-256 of the plain bytes under the domain's key
	Frame int             // index into Index.Frames
	Off   uint32          // in the frame's plain bytes
	Len   uint32          // plain bytes
}

// Index is a layer: what changed, and where the content is.
//
// Packs stand in no particular order, each digest once. Frames are sorted by
// (Pack, Off) and do not overlap. Chunks have each id once.
type Index struct {
	Base     snapshot.Digest // manifest of the base, zero for the empty tree
	Manifest snapshot.Digest // manifest of the snapshot
	Changes  []snapshot.Change
	Packs    []Pack
	Frames   []Frame
	Chunks   []ChunkRef
}

// Location is where one chunk can be found, outside of the index that says so.
type Location struct {
	Pack  Pack
	Frame Frame // Frame.Pack has no meaning here
	Off   uint32
	Len   uint32
}

// Locate returns where each chunk of the index is, for EncoderOptions.Known of a
// layer that stands on this one.
func (ix *Index) Locate() map[snapshot.Digest]Location {
	m := make(map[snapshot.Digest]Location, len(ix.Chunks))
	for _, c := range ix.Chunks {
		f := ix.Frames[c.Frame]
		m[c.ID] = Location{Pack: ix.Packs[f.Pack], Frame: f, Off: c.Off, Len: c.Len}
	}
	return m
}

// Stats tells what Encode did.
type Stats struct {
	Plain   int64 // content bytes of the files in the changes, holes left out, hard-linked content once
	New     int64 // of these, the bytes that no known pack had
	Stored  int64 // bytes of the packs that were written
	Elapsed time.Duration
}
