package pack_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// A second reader of the format, written from FORMAT.md by somebody who did not look
// at the first. It knows nothing of this module. Numbers in comments are FORMAT.md's
// sections. What is wrong ends in a panic with bad, which read turns into an error.

type bad string

func must(ok bool, format string, args ...any) {
	if !ok {
		panic(bad(fmt.Sprintf(format, args...)))
	}
}

// read calls f and returns what it found wrong.
func read(f func()) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case bad:
			err = fmt.Errorf("%s", string(p))
		default:
			panic(p)
		}
	}()
	f()
	return nil
}

// bytesIn is a body that is read from its start (1).
type bytesIn []byte

func (b *bytesIn) take(n uint64) []byte {
	must(n <= uint64(len(*b)), "cut short")
	p := (*b)[:n]
	*b = (*b)[n:]
	return p
}

func (b *bytesIn) byte() byte { return b.take(1)[0] }

func (b *bytesIn) digest() (d [32]byte) { return [32]byte(b.take(32)) }

func (b *bytesIn) uvarint(most uint64) (n uint64) {
	for shift := uint(0); ; shift += 7 {
		c := b.byte()
		must(shift < 63 || shift == 63 && c <= 1, "more than 64 bits")
		must(c != 0 || shift == 0, "not the shortest form")
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			must(n <= most, "%d is more than %d", n, most)
			return n
		}
	}
}

func (b *bytesIn) svarint() int64 {
	u := b.uvarint(1<<64 - 1)
	return int64(u>>1) ^ -int64(u&1)
}

// count is of records of at least size bytes each.
func (b *bytesIn) count(size int) int { return int(b.uvarint(uint64(len(*b) / size))) }

// envelope checks magic, version and trailer, and returns what lies between (1, 4, 5).
func envelope(file []byte, magic string) bytesIn {
	must(len(file) >= 8 && string(file[:7]) == magic, "not a %s", magic)
	must(file[7] != 0, "version 0")
	must(file[7] == 1, "made by a newer version")
	must(len(file) >= 40, "cut short")
	end := len(file) - 32
	must(sha256.Sum256(file[:end]) == [32]byte(file[end:]), "damaged")
	return file[8:end]
}

// less is the order of paths (2).
func less(a, b string) bool {
	key := func(s string) string { return strings.ReplaceAll(s, "/", "\x00") }
	return key(a) < key(b)
}

func goodPath(p string) bool {
	if p == "" {
		return true
	}
	for _, name := range strings.Split(p, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 || strings.Contains(name, "\x00") {
			return false
		}
	}
	return len(p) <= 4096
}

// path is one that is stored relative to another (2).
func (b *bytesIn) path(before string) string {
	shared := b.uvarint(uint64(len(before)))
	rest := b.take(b.uvarint(4096))
	must(len(rest) == 0 || shared == uint64(len(before)) || before[shared] != rest[0], "shares more")
	p := before[:shared] + string(rest)
	must(goodPath(p), "path %q", p)
	return p
}

// What entries are (3). The names are those of the golden files' JSON.
type (
	chunk struct {
		Off, Len int64
		ID       string
	}
	attr struct {
		Name  string
		Value []byte
	}
	entry struct {
		Path     string
		Type     byte
		Mode     uint32
		UID, GID uint32
		MTime    int64
		Size     int64
		Target   string
		Xattrs   []attr
		Chunks   []chunk
		Link     string
	}
)

const (
	directory, file, symlink, fifo, socket = 1, 2, 3, 4, 5

	kindXattrs, kindOwner, kindMode = 1 << 5, 1 << 6, 1 << 7
)

// entries is the state that a list of them is read with (3).
type entries struct {
	b        *bytesIn
	last     string
	any      bool
	mode     [8]uint32
	uid, gid uint32
	mtime    int64
	chunk    func() (id string, n int64)
}

func (r *entries) path() string {
	p := r.b.path(r.last)
	must(!r.any || less(r.last, p), "%q behind %q", p, r.last)
	r.last, r.any = p, true
	return p
}

func (r *entries) entry(path string) entry {
	kind := r.b.byte()
	e := entry{Path: path, Type: kind & 7}
	must(e.Type >= directory && e.Type <= socket, "type %d", e.Type)
	e.Mode = r.mode[e.Type]
	if kind&kindMode == 0 {
		e.Mode = uint32(r.b.uvarint(0o7777))
		must(e.Mode != r.mode[e.Type], "mode told twice")
	}
	e.UID, e.GID = r.uid, r.gid
	if kind&kindOwner == 0 {
		e.UID, e.GID = uint32(r.b.uvarint(1<<32-1)), uint32(r.b.uvarint(1<<32-1))
		must(e.UID != r.uid || e.GID != r.gid, "owner told twice")
	}
	e.MTime = r.mtime + r.b.svarint()
	r.mode[e.Type], r.uid, r.gid, r.mtime = e.Mode, e.UID, e.GID, e.MTime
	switch kind >> 3 & 3 {
	case 0:
	case 1:
		e.Link = path
	case 2:
		e.Link = r.b.path(path)
		must(e.Link != path && less(e.Link, path), "link %q of %q", e.Link, path)
	default:
		must(false, "kind of link")
	}
	must(kind>>3&3 == 0 || e.Link != "" && e.Type != directory, "link of %q", path)
	if kind&kindXattrs != 0 {
		r.xattrs(&e)
	}
	switch e.Type {
	case file:
		r.content(&e)
	case symlink:
		e.Target = string(r.b.take(r.b.uvarint(4095)))
		must(e.Target != "" && !strings.Contains(e.Target, "\x00"), "target of %q", path)
	}
	return e
}

func (r *entries) xattrs(e *entry) {
	n := r.b.uvarint(256)
	must(n > 0, "no attributes")
	for range n {
		x := attr{Name: string(r.b.take(r.b.uvarint(255)))}
		x.Value = bytes.Clone(r.b.take(r.b.uvarint(65536)))
		must(len(e.Xattrs) == 0 || e.Xattrs[len(e.Xattrs)-1].Name < x.Name, "order of attributes")
		e.Xattrs = append(e.Xattrs, x)
	}
}

func (r *entries) content(e *entry) {
	e.Size = int64(r.b.uvarint(1<<63 - 1))
	end := int64(0)
	for range r.b.count(2) {
		gap := int64(r.b.uvarint(uint64(e.Size - end)))
		id, n := r.chunk()
		c := chunk{Off: end + gap, Len: n, ID: id}
		must(n >= 1 && n <= 4<<20 && n <= e.Size-c.Off, "chunk leaves %q", e.Path)
		end = c.Off + n
		e.Chunks = append(e.Chunks, c)
	}
}

// secondManifest reads a manifest (4).
func secondManifest(whole []byte) (list []entry) {
	b := envelope(whole, "RSTMANI")
	r := entries{b: &b, chunk: func() (string, int64) {
		n := int64(b.uvarint(4 << 20))
		return fmt.Sprintf("%x", b.digest()), n
	}}
	n := b.count(4)
	must(n <= 16<<20, "too many")
	for range n {
		list = append(list, r.entry(r.path()))
	}
	must(len(b) == 0, "something is left")
	return list
}

// What an index is (5).
type (
	packRef struct {
		Digest string
		Bytes  int64
		Own    bool
	}
	frameRef struct {
		Pack          int
		Off           int64
		Stored, Plain uint32
		Codec         byte
	}
	chunkRef struct {
		ID       string
		Frame    int
		Off, Len uint32
	}
	change struct {
		Entry           entry
		Delete, Replace bool
	}
	index struct {
		Base, Manifest string
		Changes        []change
		Packs          []packRef
		Frames         []frameRef
		Chunks         []chunkRef
	}
)

// digestText is a digest in hexadecimal, nothing for zeros.
func digestText(d [32]byte) string {
	if d == [32]byte{} {
		return ""
	}
	return fmt.Sprintf("%x", d)
}

// inflate makes plain bytes of what is stored (5, 6).
func inflate(codec byte, stored []byte, plain uint64) []byte {
	switch codec {
	case 0:
		must(uint64(len(stored)) == plain, "raw, but of another size")
		return stored
	case 1:
		var h zstd.Header
		must(h.Decode(stored) == nil, "no zstd frame")
		must(h.SingleSegment && h.DictionaryID == 0 && h.HasFCS && h.FrameContentSize == plain, "another zstd frame")
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecodeAllCapLimit(true))
		must(err == nil, "%v", err)
		defer d.Close()
		out, err := d.DecodeAll(stored, make([]byte, 0, plain))
		must(err == nil && uint64(len(out)) == plain, "does not decompress")
		return out
	}
	panic(bad("codec of a newer version"))
}

// secondIndex reads an index (5).
func secondIndex(whole []byte) *index {
	b := envelope(whole, "RSTINDX")
	ix := &index{Base: digestText(b.digest()), Manifest: digestText(b.digest())}
	codec := b.byte()
	plain, stored := binary.LittleEndian.Uint64(b.take(8)), binary.LittleEndian.Uint64(b.take(8))
	must(stored == uint64(len(b)), "body of another size")
	must(plain <= 1<<30 && (codec != 1 || plain > stored && plain <= 16*stored), "sizes of the body")
	body := bytesIn(inflate(codec, b, plain))
	for range body.count(34) {
		p := packRef{Digest: digestText(body.digest()), Bytes: int64(body.uvarint(1 << 30))}
		own := body.byte()
		must(own <= 1 && p.Digest != "" && p.Bytes >= 9, "pack")
		p.Own = own == 1
		ix.Packs = append(ix.Packs, p)
	}
	ix.frames(&body)
	ix.chunks(&body)
	ix.changes(&body)
	must(len(body) == 0, "something is left")
	return ix
}

func (ix *index) frames(b *bytesIn) {
	last, end := 0, int64(8)
	for range b.count(5) {
		step := int(b.uvarint(uint64(len(ix.Packs))))
		if step > 0 {
			last, end = last+step, 8
		}
		must(last < len(ix.Packs), "frame of no pack")
		f := frameRef{Pack: last, Off: end + int64(b.uvarint(1<<30))}
		f.Stored, f.Plain, f.Codec = uint32(b.uvarint(1<<30)), uint32(b.uvarint(4<<20)), b.byte()
		end = f.Off + int64(f.Stored)
		must(f.Stored >= 1 && f.Plain >= 1 && end <= ix.Packs[last].Bytes, "frame")
		must(f.Codec == 0 && f.Stored == f.Plain || f.Codec == 1 && f.Stored < f.Plain, "frame's sizes")
		ix.Frames = append(ix.Frames, f)
	}
}

func (ix *index) chunks(b *bytesIn) {
	n := b.count(35)
	seen := map[string]bool{}
	for range n {
		id := fmt.Sprintf("%x", b.digest())
		must(!seen[id], "chunk twice")
		seen[id] = true
		ix.Chunks = append(ix.Chunks, chunkRef{ID: id})
	}
	frame, end := int64(0), int64(0)
	for i := range ix.Chunks {
		c := &ix.Chunks[i]
		if step := b.svarint(); step != 0 {
			frame, end = frame+step, 0
		}
		must(frame >= 0 && frame < int64(len(ix.Frames)), "chunk of no frame")
		off := end + b.svarint()
		n := int64(b.uvarint(4 << 20))
		end = off + n
		must(off >= 0 && n >= 1 && end <= int64(ix.Frames[frame].Plain), "chunk leaves its frame")
		c.Frame, c.Off, c.Len = int(frame), uint32(off), uint32(n)
	}
}

func (ix *index) changes(b *bytesIn) {
	first := uint64(0) // that was not named yet
	r := entries{b: b, chunk: func() (string, int64) {
		back := b.uvarint(first)
		at := first - back
		if back == 0 {
			first++
		}
		must(at < uint64(len(ix.Chunks)), "chunk behind the last")
		return ix.Chunks[at].ID, int64(ix.Chunks[at].Len)
	}}
	n := b.count(4)
	must(n <= 16<<20, "too many")
	for range n {
		op := b.byte()
		must(op <= 2, "op %d", op)
		ch := change{Delete: op == 1, Replace: op == 2}
		if p := r.path(); op == 1 {
			must(p != "", "the root is deleted")
			ch.Entry.Path = p
		} else {
			ch.Entry = r.entry(p)
		}
		ix.Changes = append(ix.Changes, ch)
	}
}

// content puts a file together (3, 6). pack returns a whole pack.
func (ix *index) content(e *entry, key []byte, pack func(digest string) []byte) []byte {
	out := make([]byte, e.Size)
	for _, c := range e.Chunks {
		ref := ix.find(c.ID)
		f := ix.Frames[ref.Frame]
		whole := pack(ix.Packs[f.Pack].Digest)
		must(string(whole[:7]) == "RSTPACK" && whole[7] == 1, "no pack")
		plain := inflate(f.Codec, whole[f.Off:][:f.Stored], uint64(f.Plain))
		p := plain[ref.Off:][:ref.Len]
		h := hmac.New(sha256.New, key)
		h.Write(p)
		must(fmt.Sprintf("%x", h.Sum(nil)) == c.ID, "chunk %s is another", c.ID)
		copy(out[c.Off:], p)
	}
	return out
}

func (ix *index) find(id string) *chunkRef {
	for i := range ix.Chunks {
		if ix.Chunks[i].ID == id {
			return &ix.Chunks[i]
		}
	}
	panic(bad("chunk " + id + " is nowhere"))
}
