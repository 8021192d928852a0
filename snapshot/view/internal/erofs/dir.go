package erofs

// dirData encodes one directory, entry by entry in bytewise order. A block holds
// its entries' fixed parts first, then their names; the last block ends with its
// last name and is padded by whoever writes it.
//
//	entry:  0 nid (8)  8 place of the name in the block  10 type  11 zero
type dirData struct {
	block int    // bytes of a block
	done  []byte // whole blocks
	fixed []byte // of the current block
	names []byte
}

func (d *dirData) reset(block int) {
	d.block = block
	d.done, d.fixed, d.names = d.done[:0], d.fixed[:0], d.names[:0]
}

func (d *dirData) add(name string, nid uint32, ft uint8) {
	if len(d.fixed)+len(d.names)+direntSize+len(name) > d.block {
		d.flush()
		for len(d.done)%d.block != 0 {
			d.done = append(d.done, 0)
		}
	}
	var e [direntSize]byte
	le.PutUint64(e[:], uint64(nid))
	le.PutUint16(e[8:], uint16(len(d.names))) // from the first name; flush knows where that is
	e[10] = ft
	d.fixed = append(d.fixed, e[:]...)
	d.names = append(d.names, name...)
}

func (d *dirData) flush() {
	for at := 8; at < len(d.fixed); at += direntSize {
		le.PutUint16(d.fixed[at:], le.Uint16(d.fixed[at:])+uint16(len(d.fixed)))
	}
	d.done = append(append(d.done, d.fixed...), d.names...)
	d.fixed, d.names = d.fixed[:0], d.names[:0]
}

// end returns the whole directory. It is valid until reset.
func (d *dirData) end() []byte {
	d.flush()
	return d.done
}
