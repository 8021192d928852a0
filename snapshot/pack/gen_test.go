package pack

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math"
	"slices"

	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// Generators of valid things.

var genName = rapid.OneOf(
	rapid.StringMatching(`[a-c]{1,3}`),
	rapid.StringMatching(`[a-z0-9_.+\-]{1,20}x`),
	rapid.Map(rapid.SliceOfN(rapid.ByteRange(1, 255), 1, 12), func(b []byte) string {
		return "n" + string(bytes.ReplaceAll(b, []byte("/"), []byte{0xff}))
	}),
	rapid.Just(string(bytes.Repeat([]byte("L"), snapshot.MaxNameBytes))),
)

func genDigest(rt *rapid.T, label string) (d snapshot.Digest) {
	return sha256.Sum256([]byte(rapid.StringMatching(`[a-z]{8}`).Draw(rt, label)))
}

// genPaths draws sorted, unique paths, perhaps with the root.
func genPaths(rt *rapid.T, root bool) []string {
	set := map[string]bool{"": root}
	for range rapid.IntRange(0, 12).Draw(rt, "paths") {
		p := genName.Draw(rt, "name")
		for range rapid.IntRange(0, 3).Draw(rt, "depth") {
			p += "/" + genName.Draw(rt, "name")
		}
		set[p] = true
	}
	var list []string
	for p, ok := range set {
		if ok {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, snapshot.ComparePaths)
	return list
}

func genEntry(rt *rapid.T, path string, chunk func(n int64) snapshot.Digest) snapshot.Entry {
	e := snapshot.Entry{
		Path:  path,
		Type:  snapshot.Type(rapid.IntRange(1, 5).Draw(rt, "type")),
		Mode:  rapid.SampledFrom([]uint32{0o644, 0o755, 0o4755, 0, 0o7777}).Draw(rt, "mode"),
		UID:   rapid.SampledFrom([]uint32{0, 1000, math.MaxUint32}).Draw(rt, "uid"),
		GID:   rapid.SampledFrom([]uint32{0, 1000, math.MaxUint32}).Draw(rt, "gid"),
		MTime: rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, -1, math.MinInt64, math.MaxInt64})).Draw(rt, "mtime"),
	}
	if path == "" {
		e.Type = snapshot.TypeDir
	}
	for i := range rapid.IntRange(0, 2).Draw(rt, "xattrs") {
		e.Xattrs = append(e.Xattrs, snapshot.Xattr{
			Name:  fmt.Sprintf("user.%d", i),
			Value: rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(rt, "value"),
		})
	}
	if e.Type != snapshot.TypeDir && rapid.Bool().Draw(rt, "linked") {
		e.Link = rapid.SampledFrom([]string{path, "a", path[:len(path)-1] + "\x01"}).Draw(rt, "link")
		if badPath(e.Link) != "" || snapshot.ComparePaths(e.Link, path) > 0 {
			e.Link = path
		}
	}
	switch e.Type {
	case snapshot.TypeSymlink:
		e.Target = rapid.StringMatching(`[a-z./]{1,30}`).Draw(rt, "target")
	case snapshot.TypeFile:
		genContent(rt, &e, chunk)
	}
	return e
}

func genContent(rt *rapid.T, e *snapshot.Entry, chunk func(n int64) snapshot.Digest) {
	e.Chunks = []snapshot.Chunk{}
	var end int64
	for range rapid.IntRange(0, 3).Draw(rt, "chunks") {
		c := snapshot.Chunk{
			Off: end + rapid.SampledFrom([]int64{0, 0, 65536}).Draw(rt, "gap"),
			Len: rapid.Int64Range(1, snapshot.MaxChunkBytes).Draw(rt, "len"),
		}
		c.ID = chunk(c.Len)
		end = c.Off + c.Len
		e.Chunks = append(e.Chunks, c)
	}
	e.Size = end + rapid.SampledFrom([]int64{0, 0, 1, 1 << 40}).Draw(rt, "tail")
}

func genManifest(rt *rapid.T) *snapshot.Manifest {
	m := &snapshot.Manifest{}
	for _, p := range genPaths(rt, true) {
		m.Entries = append(m.Entries, genEntry(rt, p, func(int64) snapshot.Digest { return genDigest(rt, "id") }))
	}
	return m
}

// genIndex draws an index with consistent tables. No pack holds what it says.
func genIndex(rt *rapid.T) *Index {
	ix := &Index{Base: genDigest(rt, "base"), Manifest: genDigest(rt, "manifest")}
	for i := range rapid.IntRange(0, 3).Draw(rt, "packs") {
		off := int64(packHeader)
		for range rapid.IntRange(0, 3).Draw(rt, "frames") {
			f := Frame{
				Pack: i, Off: off + rapid.Int64Range(0, 100).Draw(rt, "gap"),
				Plain: rapid.Uint32Range(2, snapshot.MaxChunkBytes).Draw(rt, "plain"),
			}
			f.Codec = rapid.SampledFrom([]byte{CodecRaw, CodecZstd}).Draw(rt, "codec")
			if f.Stored = f.Plain; f.Codec == CodecZstd {
				f.Stored = rapid.Uint32Range(1, f.Plain-1).Draw(rt, "stored")
			}
			off = f.Off + int64(f.Stored)
			ix.Frames = append(ix.Frames, f)
		}
		ix.Packs = append(ix.Packs, Pack{
			Digest: sha256.Sum256([]byte{byte(i)}),
			Bytes:  max(off, packHeader+1), Own: rapid.Bool().Draw(rt, "own"),
		})
	}
	chunk := func(n int64) snapshot.Digest {
		id := sha256.Sum256(fmt.Appendf(nil, "%d %d", n, rapid.IntRange(0, 1).Draw(rt, "same")))
		if !slices.ContainsFunc(ix.Chunks, func(c ChunkRef) bool { return c.ID == id }) {
			ix.Chunks = append(ix.Chunks, ChunkRef{ID: id, Len: uint32(n), Frame: -1})
		}
		return id
	}
	for _, p := range genPaths(rt, rapid.Bool().Draw(rt, "root")) {
		c := snapshot.Change{Entry: snapshot.Entry{Path: p}}
		switch rapid.IntRange(0, 3).Draw(rt, "op") {
		case 0:
			if c.Delete = p != ""; c.Delete {
				break
			}
			fallthrough
		case 1:
			c.Replace = true
			fallthrough
		default:
			c.Entry = genEntry(rt, p, chunk)
		}
		ix.Changes = append(ix.Changes, c)
	}
	placeChunks(rt, ix)
	return ix
}

// placeChunks finds each chunk a frame, or makes it one of its own.
func placeChunks(rt *rapid.T, ix *Index) {
	for i := range ix.Chunks {
		c := &ix.Chunks[i]
		for f := range ix.Frames {
			if ix.Frames[f].Plain >= c.Len {
				c.Frame, c.Off = f, rapid.Uint32Range(0, ix.Frames[f].Plain-c.Len).Draw(rt, "off")
			}
		}
		if c.Frame < 0 {
			p := Pack{Digest: sha256.Sum256(fmt.Appendf(nil, "pack %d", i)), Bytes: packHeader + int64(c.Len)}
			ix.Packs = append(ix.Packs, p)
			ix.Frames = append(ix.Frames, Frame{Pack: len(ix.Packs) - 1, Off: packHeader, Stored: c.Len, Plain: c.Len})
			c.Frame = len(ix.Frames) - 1
		}
	}
}
