package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/stretchr/testify/require"
)

// verify reads a whole image by a strict reader of its own and says what is wrong
// with it: order and uniqueness of names, "." and "..", link counts, places that
// overlap, attributes and chunk indexes that reach too far.
func verify(r io.ReaderAt) error {
	v, err := newVerifier(r)
	if err != nil {
		return err
	}
	if err := v.dir("", uint64(v.img.super.root), uint64(v.img.super.root)); err != nil {
		return err
	}
	for nid, n := range v.links {
		if in := v.inodes[nid]; n != in.nlink {
			return fmt.Errorf("inode %d has %d links, %d were found", nid, in.nlink, n)
		}
	}
	if uint64(len(v.links)) != v.img.Inodes() {
		return fmt.Errorf("%d inodes, not %d", len(v.links), v.img.Inodes())
	}
	return nil
}

type verifier struct {
	img    *Image
	all    []byte
	links  map[uint64]uint32
	inodes map[uint64]inode
	paths  map[string]uint64
	slots  map[uint64]uint64 // slot to inode
	blocks map[uint64]uint64 // block of data to inode
}

func newVerifier(r io.ReaderAt) (*verifier, error) {
	m, err := Open(r)
	if err != nil {
		return nil, err
	}
	all := make([]byte, m.Bytes())
	if _, err := r.ReadAt(all, 0); err != nil {
		return nil, err
	}
	return &verifier{
		img: m, all: all, links: map[uint64]uint32{}, inodes: map[uint64]inode{},
		paths: map[string]uint64{}, slots: map[uint64]uint64{}, blocks: map[uint64]uint64{},
	}, nil
}

func (v *verifier) dir(path string, nid, parent uint64) error {
	if err := v.inode(path, nid, ftDir); err != nil {
		return err
	}
	in := v.inodes[nid]
	data, err := v.img.dirData(nid)
	if err != nil {
		return err
	}
	if err := v.claim(in, nid); err != nil {
		return err
	}
	last, first := "", true
	dots, subdirs := 0, uint32(0)
	bs := v.img.block()
	for ; len(data) > 0; data = data[min(bs, len(data)):] {
		block := data[:min(bs, len(data))]
		n, err := direntCount(block)
		if err != nil {
			return err
		}
		for i := range n {
			e, err := direntAt(block, n, i)
			if err != nil {
				return err
			}
			name := string(e.name)
			if !first && name <= last {
				return fmt.Errorf("%q: %q behind %q", path, name, last)
			}
			first, last = false, name
			switch name {
			case ".", "..":
				dots++
				if want := map[string]uint64{".": nid, "..": parent}[name]; e.nid != want || e.ft != ftDir {
					return fmt.Errorf("%q: %q is %d, not %d", path, name, e.nid, want)
				}
				continue
			}
			if err := checkName(name); err != nil {
				return err
			}
			p := name
			if path != "" {
				p = path + "/" + name
			}
			if e.ft == ftDir {
				subdirs++
				err = v.dir(p, e.nid, nid)
			} else {
				err = v.inode(p, e.nid, e.ft)
			}
			if err != nil {
				return err
			}
		}
	}
	if dots != 2 || in.nlink != 2+subdirs {
		return fmt.Errorf("%q: %d dots, %d links, %d directories", path, dots, in.nlink, subdirs)
	}
	v.links[nid] = in.nlink
	return nil
}

// claim takes the blocks of data of an inode, which nobody else may have.
func (v *verifier) claim(in inode, nid uint64) error {
	bs := uint64(v.img.block())
	for b := uint64(in.union); b < uint64(in.union)+(in.size+bs-1)/bs; b++ {
		if o, ok := v.blocks[b]; ok || b == 0 || b >= uint64(v.img.super.metaBlock) {
			return fmt.Errorf("block %d of %d is that of %d", b, nid, o)
		}
		v.blocks[b] = nid
	}
	return nil
}

func (v *verifier) inode(path string, nid uint64, ft uint8) error {
	v.paths[path] = nid
	v.links[nid]++
	if _, ok := v.inodes[nid]; ok {
		if ft == ftDir {
			return fmt.Errorf("%q: directory %d twice", path, nid)
		}
		return nil
	}
	in, err := v.img.inode(nid)
	if err != nil {
		return err
	}
	v.inodes[nid] = in
	if want := map[uint8]uint16{ftDir: modeDir, ftFile: modeFile, ftSymlink: modeSymlink, ftFifo: modeFifo, ftSocket: modeSocket}[ft]; in.mode&modeType != want || want == 0 {
		return fmt.Errorf("%q: mode %o, type %d", path, in.mode, ft)
	}
	if in.nsec >= 1e9 || nid < firstNID {
		return fmt.Errorf("%q: nanoseconds %d, inode %d", path, in.nsec, nid)
	}
	at := int64(v.img.super.metaBlock)<<v.img.super.bits + int64(nid)<<slotBits
	end := at + inodeSize + attrBytes(in.icount)
	if end > int64(len(v.all)) {
		return fmt.Errorf("%q: attributes behind the end", path)
	}
	if err := v.attributes(path, v.all[at+inodeSize:end]); err != nil {
		return err
	}
	switch in.layout {
	case layoutInline:
		from := end
		end += int64(in.size)
		if bs := int64(v.img.block()); ft != ftSymlink || from/bs != (end-1)/bs || end > int64(len(v.all)) {
			return fmt.Errorf("%q: target from %d to %d", path, from, end)
		}
	case layoutChunks:
		if end, err = v.chunks(path, in, roundUp(end, indexSize)); err != nil {
			return err
		}
	case layoutPlain:
		if ft == ftSymlink {
			err = v.claim(in, nid)
		} else if ft != ftDir && in.size > 0 {
			err = errors.New("data in the image")
		}
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	default:
		return fmt.Errorf("%q: layout %d", path, in.layout)
	}
	for s := nid; s < nid+uint64(roundUp(end-at, slotSize)/slotSize); s++ {
		if o, ok := v.slots[s]; ok {
			return fmt.Errorf("%q: inode %d overlaps %d", path, nid, o)
		}
		v.slots[s] = nid
	}
	return nil
}

func (v *verifier) chunks(path string, in inode, at int64) (end int64, err error) {
	bits := uint64(in.union & maxChunkBits)
	if in.union&^maxChunkBits != chunkIndexes || in.size == 0 {
		return 0, fmt.Errorf("%q: chunk format %x of %d bytes", path, in.union, in.size)
	}
	chunk := uint64(1) << (bits + uint64(v.img.super.bits))
	n := (in.size + chunk - 1) / chunk
	end = at + int64(n)*indexSize
	if end > int64(len(v.all)) {
		return 0, fmt.Errorf("%q: %d chunk indexes", path, n)
	}
	for i := range n {
		b := v.all[at+int64(i)*indexSize:]
		dev, block := le.Uint16(b[2:]), le.Uint32(b[4:])
		if block == nullBlock {
			if dev != 0 {
				return 0, fmt.Errorf("%q: a hole in device %d", path, dev)
			}
			continue
		}
		if dev == 0 || int(dev) > len(v.img.Devices) {
			return 0, fmt.Errorf("%q: device %d", path, dev)
		}
		last := min(chunk, uint64(roundUp(int64(in.size-i*chunk), int64(v.img.block()))))
		if reach := int64(block)<<v.img.super.bits + int64(last); reach > v.img.Devices[dev-1].Bytes {
			return 0, fmt.Errorf("%q: device %d up to %d of %d", path, dev, reach, v.img.Devices[dev-1].Bytes)
		}
	}
	return end, nil
}

func (v *verifier) attributes(path string, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	shared := int(b[4])
	if len(b) <= xattrHeaderSize || len(b) < xattrHeaderSize+4*shared {
		return fmt.Errorf("%q: attributes of %d bytes", path, len(b))
	}
	for i := range shared {
		id := le.Uint32(b[xattrHeaderSize+4*i:])
		at := int64(v.img.super.attrBlock)<<v.img.super.bits + 4*int64(id)
		if at+xattrEntrySize > int64(v.img.super.metaBlock)<<v.img.super.bits {
			return fmt.Errorf("%q: shared attribute %d", path, id)
		}
		if _, err := attribute(v.all[at:]); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
	}
	for b = b[xattrHeaderSize+4*shared:]; len(b) > 0; {
		n, err := attribute(b)
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		b = b[n:]
	}
	return nil
}

// attribute checks one entry and returns its length.
func attribute(b []byte) (int, error) {
	if len(b) < xattrEntrySize {
		return 0, errors.New("attribute cut short")
	}
	name, value := int(b[0]), int(le.Uint16(b[2:]))
	n := int(roundUp(int64(xattrEntrySize+name+value), 4))
	if n > len(b) || b[1] == 0 || b[1] > prefixTrusted || bytes.IndexByte(b[xattrEntrySize:xattrEntrySize+name], 0) >= 0 {
		return 0, errors.New("attribute damaged")
	}
	return n, nil
}

// numbers returns the nid of every path.
func numbers(t tester, r io.ReaderAt) map[string]uint64 {
	v, err := newVerifier(r)
	require.NoError(t, err)
	require.NoError(t, v.dir("", uint64(v.img.super.root), uint64(v.img.super.root)))
	return v.paths
}
