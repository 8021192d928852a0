package promises

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/klauspost/compress/zstd"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// rawIndex writes an index as snapshot/pack/FORMAT.md has it, and checks nothing:
// it is the attacker's. Every digest in what it makes is right.
type rawIndex struct {
	ix       *pack.Index
	zstd     bool
	plain    uint64         // what the body says that it decompresses to; 0: the truth
	kind     map[int]byte   // of a change: another kind byte
	op       map[int]byte   // of a change: another first byte
	counts   map[string]int // of a table: another count
	own      byte           // of every pack, unless 0 or 1
	trailing []byte         // behind the body
	edit     func(body []byte) []byte
}

func uv(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

func sv(b []byte, v int64) []byte { return uv(b, uint64(v)<<1^uint64(v>>63)) }

func (x *rawIndex) count(b []byte, what string, n int) []byte {
	if c, ok := x.counts[what]; ok {
		return uv(b, uint64(c))
	}
	return uv(b, uint64(n))
}

// encode returns the whole file.
func (x *rawIndex) encode() []byte {
	body := x.tables(nil)
	if x.edit != nil {
		body = x.edit(body)
	}
	body = append(body, x.trailing...)
	stored, codec, plain := body, byte(0), uint64(len(body))
	if x.zstd {
		e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err)
		}
		stored, codec = e.EncodeAll(body, nil), 1
		e.Close()
	}
	if x.plain != 0 {
		plain = x.plain
	}
	b := append([]byte("RSTINDX"), 1)
	b = append(b, x.ix.Base[:]...)
	b = append(b, x.ix.Manifest[:]...)
	b = append(b, codec)
	b = binary.LittleEndian.AppendUint64(b, plain)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(stored)))
	b = append(b, stored...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

func (x *rawIndex) tables(b []byte) []byte {
	ix := x.ix
	b = x.count(b, "packs", len(ix.Packs))
	for _, p := range ix.Packs {
		own := x.own
		if p.Own && own == 0 {
			own = 1
		}
		b = append(uv(append(b, p.Digest[:]...), uint64(p.Bytes)), own)
	}
	b = x.count(b, "frames", len(ix.Frames))
	at, end := 0, int64(8)
	for _, f := range ix.Frames {
		b = uv(b, uint64(f.Pack-at))
		if f.Pack != at {
			at, end = f.Pack, 8
		}
		b = uv(uv(uv(b, uint64(f.Off-end)), uint64(f.Stored)), uint64(f.Plain))
		b = append(b, f.Codec)
		end = f.Off + int64(f.Stored)
	}
	chunks := x.inOrder()
	b = x.count(b, "chunks", len(chunks))
	for _, c := range chunks {
		b = append(b, c.ID[:]...)
	}
	frame, last := 0, int64(0)
	for _, c := range chunks {
		b = sv(b, int64(c.Frame-frame))
		if c.Frame != frame {
			frame, last = c.Frame, 0
		}
		b = uv(sv(b, int64(c.Off)-last), uint64(c.Len))
		last = int64(c.Off) + int64(c.Len)
	}
	return x.changes(b, chunks)
}

// inOrder sorts the chunks by first use, as the references to them need it.
func (x *rawIndex) inOrder() (list []pack.ChunkRef) {
	byID, seen := map[snapshot.Digest]pack.ChunkRef{}, map[snapshot.Digest]bool{}
	for _, c := range x.ix.Chunks {
		byID[c.ID] = c
	}
	for i := range x.ix.Changes {
		for _, c := range x.ix.Changes[i].Entry.Chunks {
			if ref, ok := byID[c.ID]; ok && !seen[c.ID] && !x.ix.Changes[i].Delete {
				seen[c.ID] = true
				list = append(list, ref)
			}
		}
	}
	for _, c := range x.ix.Chunks {
		if !seen[c.ID] {
			seen[c.ID] = true
			list = append(list, c)
		}
	}
	return list
}

func shared(b []byte, prev, p string) []byte {
	n := 0
	for n < len(prev) && n < len(p) && prev[n] == p[n] {
		n++
	}
	return append(uv(uv(b, uint64(n)), uint64(len(p)-n)), p[n:]...)
}

func (x *rawIndex) changes(b []byte, chunks []pack.ChunkRef) []byte {
	place := map[snapshot.Digest]int{}
	for i, c := range chunks {
		place[c.ID] = i
	}
	next := 0
	ref := func(b []byte, id snapshot.Digest) []byte {
		at, ok := place[id]
		if !ok {
			at = next - 1_000_000
		}
		b = uv(b, uint64(next-at))
		if at == next {
			next++
		}
		return b
	}
	b = x.count(b, "changes", len(x.ix.Changes))
	prev := ""
	var mtime int64
	for i := range x.ix.Changes {
		c := &x.ix.Changes[i]
		op := byte(0)
		switch {
		case c.Delete:
			op = 1
		case c.Replace:
			op = 2
		}
		if o, ok := x.op[i]; ok {
			op = o
		}
		b = shared(append(b, op), prev, c.Entry.Path)
		prev = c.Entry.Path
		if op == 1 {
			continue
		}
		b, mtime = x.entry(b, i, &c.Entry, mtime, ref)
	}
	return b
}

// entry repeats mode and owner each time, unless they are what a reader begins with.
func (x *rawIndex) entry(b []byte, i int, e *snapshot.Entry, mtime int64, ref func([]byte, snapshot.Digest) []byte) ([]byte, int64) {
	s := x.state(i)
	kind := byte(e.Type) & 7
	sameMode, sameOwner := e.Mode == s.mode, e.UID == s.uid && e.GID == s.gid
	if sameMode {
		kind |= 1 << 7
	}
	if sameOwner {
		kind |= 1 << 6
	}
	if len(e.Xattrs) > 0 {
		kind |= 1 << 5
	}
	switch e.Link {
	case "":
	case e.Path:
		kind |= 1 << 3
	default:
		kind |= 2 << 3
	}
	if k, ok := x.kind[i]; ok {
		kind = k
	}
	b = append(b, kind)
	if !sameMode {
		b = uv(b, uint64(e.Mode))
	}
	if !sameOwner {
		b = uv(uv(b, uint64(e.UID)), uint64(e.GID))
	}
	b = sv(b, e.MTime-mtime)
	if e.Link != "" && e.Link != e.Path {
		b = shared(b, e.Path, e.Link)
	}
	if len(e.Xattrs) > 0 {
		b = uv(b, uint64(len(e.Xattrs)))
		for _, a := range e.Xattrs {
			b = append(uv(b, uint64(len(a.Name))), a.Name...)
			b = append(uv(b, uint64(len(a.Value))), a.Value...)
		}
	}
	switch e.Type {
	case snapshot.TypeFile:
		b = uv(uv(b, uint64(e.Size)), uint64(len(e.Chunks)))
		end := int64(0)
		for _, c := range e.Chunks {
			b = ref(uv(b, uint64(c.Off-end)), c.ID)
			end = c.Off + c.Len
		}
	case snapshot.TypeSymlink:
		b = append(uv(b, uint64(len(e.Target))), e.Target...)
	}
	return b, e.MTime
}

type before struct{ mode, uid, gid uint32 }

// state is what the reader has in mind before change i.
func (x *rawIndex) state(i int) (s before) {
	t := x.ix.Changes[i].Entry.Type & 7
	for j := range i {
		c := &x.ix.Changes[j]
		if c.Delete {
			continue
		}
		s.uid, s.gid = c.Entry.UID, c.Entry.GID
		if c.Entry.Type&7 == t {
			s.mode = c.Entry.Mode
		}
	}
	return s
}
