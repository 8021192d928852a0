package erofs

import (
	"bytes"
	"fmt"
)

// baseDir is a directory of the base's image, read from front to back while the
// same directory of the child is walked. The zero baseDir is empty.
type baseDir struct {
	img  *Image
	data []byte // whole blocks still to be read, the current one first
	next int    // entry in the current block
}

// openBase returns the directory at nid.
func (m *Image) openBase(nid uint64) (baseDir, error) {
	data, err := m.dirData(nid)
	return baseDir{img: m, data: data}, err
}

// find returns the nid that the base has for name, 0 for none. Names must be
// asked for in ascending order.
func (d *baseDir) find(name string) (nid uint64, ft uint8, err error) {
	for len(d.data) > 0 {
		block := d.data[:min(len(d.data), d.img.block())]
		n, err := direntCount(block)
		if err != nil {
			return 0, 0, err
		}
		for ; d.next < n; d.next++ {
			e, err := direntAt(block, n, d.next)
			if err != nil {
				return 0, 0, err
			}
			switch c := bytes.Compare(e.name, []byte(name)); {
			case c == 0:
				d.next++
				return e.nid, e.ft, nil
			case c > 0:
				return 0, 0, nil
			}
		}
		d.data, d.next = d.data[len(block):], 0
	}
	return 0, 0, nil
}

type dirent struct {
	nid  uint64
	ft   uint8
	name []byte
}

// direntCount returns how many entries a block has.
func direntCount(block []byte) (int, error) {
	if len(block) < direntSize {
		return 0, fmt.Errorf("directory block of %d bytes: %w", len(block), errDamaged)
	}
	first := int(le.Uint16(block[8:]))
	if first < direntSize || first%direntSize != 0 || first > len(block) {
		return 0, fmt.Errorf("first name at %d: %w", first, errDamaged)
	}
	return first / direntSize, nil
}

// direntAt returns entry i of the n in block. The last name ends with the block
// or with the first zero.
func direntAt(block []byte, n, i int) (dirent, error) {
	b := block[i*direntSize:]
	from, to := int(le.Uint16(b[8:])), len(block)
	if i+1 < n {
		to = int(le.Uint16(b[direntSize+8:]))
	}
	if from > to || to > len(block) {
		return dirent{}, fmt.Errorf("name from %d to %d: %w", from, to, errDamaged)
	}
	name := block[from:to]
	if i+1 == n {
		if z := bytes.IndexByte(name, 0); z >= 0 {
			name = name[:z]
		}
	}
	return dirent{nid: le.Uint64(b), ft: b[10], name: name}, nil
}
