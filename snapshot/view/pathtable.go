package view

import "encoding/binary"

// pathTable has the paths of a long list, to be found by their place, at a few bytes each:
// of most only what the one before does not have. It is filled first; then it may be read
// by several goroutines.
type pathTable struct {
	n      int
	groups [][]byte // of pathGroup paths: (shared with the last one, file) | length | the rest
	last   string
}

// pathGroup is how many paths are read for one of them, at most.
const pathGroup = 32

// add appends a path, of a file or of something else.
func (t *pathTable) add(path string, file bool) {
	if t.n%pathGroup == 0 {
		t.groups, t.last = append(t.groups, nil), ""
	}
	same := 0
	for same < min(len(path), len(t.last)) && path[same] == t.last[same] {
		same++
	}
	kind := uint64(same) << 1
	if file {
		kind |= 1
	}
	g := &t.groups[len(t.groups)-1]
	*g = binary.AppendUvarint(*g, kind)
	*g = binary.AppendUvarint(*g, uint64(len(path)-same))
	*g = append(*g, path[same:]...)
	t.last = path
	t.n++
}

// find returns the i-th path, if there is one and it is that of a file.
func (t *pathTable) find(i int) (string, bool) {
	if i < 0 || i >= t.n {
		return "", false
	}
	b, file := t.groups[i/pathGroup], false
	path := make([]byte, 0, 256)
	for range i%pathGroup + 1 {
		kind, k := binary.Uvarint(b)
		rest, m := binary.Uvarint(b[k:])
		b = b[k+m:]
		path = append(path[:kind>>1], b[:rest]...)
		b, file = b[rest:], kind&1 != 0
	}
	return string(path), file
}
