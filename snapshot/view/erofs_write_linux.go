package view

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// maxVector is how many pieces the kernel takes at once (UIO_MAXIOV).
const maxVector = 1024

// noBytes pads a file's content in the bundle.
var noBytes [bundleBlock]byte

// write is the WriteFunc.
func (b *bundleFiles) write(i int, off int64, p []byte) error {
	return b.writePieces(snapshot.Piece{Change: i, Off: off, Bytes: p})
}

// writePieces is the PiecesFunc. What lies side by side in a file, but for padding, is
// written by one call: tiny files cost more by the call than by the byte, and the kernel
// takes larger pages for larger writes.
func (b *bundleFiles) writePieces(pieces ...snapshot.Piece) error {
	list := make([]placed, 0, len(pieces))
	for i := range pieces {
		p := &pieces[i]
		s, size, err := b.plan.check(p)
		if err != nil {
			return err
		}
		if n := int64(len(p.Bytes)); n > 0 {
			list = append(list, placed{s.object, s.at + p.Off, p.Bytes, p.Off == 0, p.Off+n == size})
		}
	}
	byPlace := func(x, y placed) int { return cmp.Or(cmp.Compare(x.object, y.object), cmp.Compare(x.at, y.at)) }
	if !slices.IsSortedFunc(list, byPlace) {
		slices.SortFunc(list, byPlace)
	}
	var vector [][]byte
	for len(list) > 0 {
		run := list[:runOf(list)]
		vector = vectorOf(vector[:0], run)
		if err := b.writeRun(run, vector); err != nil {
			return err
		}
		list = list[len(run):]
	}
	return nil
}

// check returns where the file of a piece is, and how large, if the piece can be of it.
func (p *bundlePlan) check(c *snapshot.Piece) (s spot, size int64, err error) {
	i, n := c.Change, int64(len(c.Bytes))
	if i < 0 || i >= len(p.sizes) {
		return s, 0, fmt.Errorf("write to change %d of %d", i, len(p.sizes))
	}
	size = p.sizes[i]
	if size < 0 {
		return s, 0, fmt.Errorf("write to change %d, which is no file", i)
	}
	if c.Off < 0 || c.Off > size || n > size-c.Off {
		return s, 0, fmt.Errorf("write to change %d: bytes %d to %d of %d", i, c.Off, c.Off+n, size)
	}
	return p.spots[i], size, nil
}

// placed is a piece where it goes: in an object (spot.object), or at > 0 in the bundle.
type placed struct {
	object      int32
	at          int64
	bytes       []byte
	first, last bool // of its file
}

func (p *placed) end() int64 { return p.at + int64(len(p.bytes)) }

// pad is how many bytes there are between p and q, if these are nobody's: none, or what
// pads the file that ends with p up to the one that begins with q. -1 if not.
func (p *placed) pad(q *placed) int64 {
	gap := q.at - p.end()
	padding := p.object == 0 && p.last && q.first && gap < bundleBlock
	if p.object != q.object || gap < 0 || gap > 0 && !padding {
		return -1
	}
	return gap
}

// runOf is how many of the first pieces can be written as one.
func runOf(list []placed) int {
	vectors := 1
	for i := 1; i < len(list); i++ {
		pad := list[i-1].pad(&list[i])
		if vectors += 1 + int(min(pad, 1)); pad < 0 || vectors > maxVector {
			return i
		}
	}
	return len(list)
}

// vectorOf appends pieces and what pads them.
func vectorOf(v [][]byte, list []placed) [][]byte {
	for i := range list {
		if i > 0 {
			if pad := list[i-1].pad(&list[i]); pad > 0 {
				v = append(v, noBytes[:pad])
			}
		}
		v = append(v, list[i].bytes)
	}
	return v
}

// writeRun writes v, which is run and what pads it.
func (b *bundleFiles) writeRun(run []placed, v [][]byte) (err error) {
	f, open := b.bundle, false
	if n := int(run[0].object - 1); n >= 0 && n < len(b.objects) {
		f = b.objects[n]
	} else if n >= 0 {
		if f, err = os.OpenFile(filepath.Join(b.dir, objectName(spot{object: run[0].object})), os.O_WRONLY, 0); err != nil {
			return err
		}
		open = true
	}
	n, err := writeVector(f, run[0].at, v)
	if f == b.bundle {
		b.there.add(run[0].at, n)
	}
	content := int64(0)
	for i := range run {
		content += int64(len(run[i].bytes))
	}
	b.meter.Add(min(n, content))
	if open {
		return errors.Join(err, f.Close())
	}
	if b.behind != nil {
		b.behind.Wrote(f.Fd(), int(n))
	}
	return err
}

// writeVector writes all of v to f from at on. v is not what it was afterwards.
func writeVector(f *os.File, at int64, v [][]byte) (written int64, err error) {
	part := make([][]byte, 0, len(v))
	for len(v) > 0 {
		part, v = cut(part[:0], v, durable.MaxWrite-(at+written)%durable.MaxWrite)
		n, err := writePart(f, at+written, part)
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// cut moves n bytes from the begin of v, or all that there are, to the end of part.
func cut(part, v [][]byte, n int64) (moved, left [][]byte) {
	for len(v) > 0 && n > 0 {
		k := min(n, int64(len(v[0])))
		part, n = append(part, v[0][:k]), n-k
		if v[0] = v[0][k:]; len(v[0]) == 0 {
			v = v[1:]
		}
	}
	return part, v
}

// writePart writes all of v by one call, if the kernel takes it all.
func writePart(f *os.File, at int64, v [][]byte) (written int64, err error) {
	if len(v) == 1 {
		n, err := f.WriteAt(v[0], at)
		return int64(n), err
	}
	for len(v) > 0 {
		n, err := unix.Pwritev(int(f.Fd()), v, at+written)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err == nil && n == 0 {
			err = unix.EIO
		}
		if err != nil {
			return written, &os.PathError{Op: "pwritev", Path: f.Name(), Err: err}
		}
		written += int64(n)
		_, v = cut(nil, v, int64(n))
	}
	return written, nil
}
