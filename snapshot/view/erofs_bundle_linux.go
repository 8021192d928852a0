package view

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"path/filepath"
	"strconv"
	"sync/atomic"

	"github.com/roost-ci/roost/snapshot"
)

// A layer from elsewhere has its content in one bundle and in objects, which lie
// beside it in u<id>. views/<id>/packed is a file that says so: an empty one, or one
// that says joinedMark of a bundle that has the large files too.
//
// Bundle, version 1. Numbers are little endian.
//
//	0    magic "RSTBNDL\x00", version (4 bytes), the layer's id (26 bytes), zeros
//	512  the files' bytes in the order of the changes, each from a multiple of 512
//	     on and padded with zeros to one. There are no holes: what the image refers
//	     to must be there for the kernel.
//
// No content is at 0, where SourceAt would say that the bundle itself is the file.
const (
	bundleMagic   = "RSTBNDL\x00"
	bundleVersion = 1
	bundleBlock   = 512 // as the image's
	bundleMost    = 1 << 20
	joinedMark    = "joined\n"
	// joinedBytes is how many bytes of large files, for each entry, are worth having an
	// image that needs no overlay: reading an entry through one takes 3.7 µs of CPU more, and
	// reading a bundle through an image 0.5 µs for 4 KiB, once, and as much memory.
	joinedBytes = 4 << 10
)

// spot is where one change's content lies: in an object, in the bundle (at > 0),
// or nowhere.
type spot struct {
	at     int64
	object int32 // its number and 1, 0 for none
}

// bundlePlan says where the content of changes lies. It depends on nothing else.
type bundlePlan struct {
	spots   []spot  // of each change
	first   []int32 // the change whose spot it is: itself, or an earlier name of the file
	sizes   []int64 // of each change; -1: no file
	bytes   int64   // of the bundle
	objects int
	large   int64 // bytes of the objects
	sparse  bool  // an object has holes
	joined  bool
	groups  map[string]int32 // first names of files
}

// layBundle plans. Files of less than 1 MiB go in the bundle. Objects are the
// others, and what has holes: a bundle has none. Names of one file share a place.
func layBundle(changes []snapshot.Change) *bundlePlan {
	p := newBundlePlan(len(changes))
	for i := range changes {
		p.add(changes[i].Delete, &changes[i].Entry)
	}
	return p
}

func newBundlePlan(n int) *bundlePlan {
	return &bundlePlan{
		spots: make([]spot, 0, n), first: make([]int32, 0, n), sizes: make([]int64, 0, n),
		bytes: bundleBlock, groups: map[string]int32{},
	}
}

// add plans for the next change.
func (p *bundlePlan) add(gone bool, e *snapshot.Entry) {
	i := int32(len(p.spots))
	p.spots, p.first, p.sizes = append(p.spots, spot{}), append(p.first, i), append(p.sizes, -1)
	if gone || e.Type != snapshot.TypeFile {
		return
	}
	if p.sizes[i] = e.Size; e.Size <= 0 {
		return
	}
	if e.Link != "" {
		if j, ok := p.groups[e.Link]; ok {
			p.first[i], p.spots[i] = j, p.spots[j]
			return
		}
		p.groups[e.Link] = i
	}
	if e.Size >= bundleMost || hasHoles(e) {
		p.objects++
		p.spots[i].object = int32(p.objects)
		p.large += e.Size
		p.sparse = p.sparse || hasHoles(e)
		return
	}
	p.put(i)
}

// put gives the file of the i-th change the next place in the bundle.
func (p *bundlePlan) put(i int32) {
	p.spots[i] = spot{at: p.bytes}
	p.bytes += (p.sizes[i] + bundleBlock - 1) / bundleBlock * bundleBlock
}

// canJoin reports whether the bundle can have, and is better off with, the large files.
func (p *bundlePlan) canJoin() bool {
	return p.objects > 0 && !p.sparse && p.large <= joinedBytes*int64(len(p.spots))
}

// join gives the large files places in the bundle, behind the others. Nothing can be
// added then.
func (p *bundlePlan) join() {
	for i := range p.spots {
		if p.first[i] == int32(i) && p.spots[i].object > 0 {
			p.put(int32(i))
		}
	}
	for i, first := range p.first {
		p.spots[i] = p.spots[first]
	}
	p.objects, p.joined = 0, true
}

// hasHoles reports whether e's chunks leave something out.
func hasHoles(e *snapshot.Entry) bool {
	if e.Chunks == nil {
		return false
	}
	end := int64(0)
	for _, c := range e.Chunks {
		if c.Off != end {
			return true
		}
		end += c.Len
	}
	return end != e.Size
}

func objectName(s spot) string { return strconv.Itoa(int(s.object - 1)) }

// locate fills in the sources of changes, which are those of the plan.
func (p *bundlePlan) locate(dir string, changes []snapshot.Change) {
	bundle := filepath.Join(dir, bundleName)
	for i := range changes {
		e := &changes[i].Entry
		if changes[i].Delete || e.Type != snapshot.TypeFile {
			continue
		}
		p.source(dir, bundle, i, e)
	}
}

// source fills in where the content of the i-th change is.
func (p *bundlePlan) source(dir, bundle string, i int, e *snapshot.Entry) {
	e.Source, e.SourceAt = "", 0
	switch s := p.spots[i]; {
	case s.at > 0:
		e.Source, e.SourceAt = bundle, s.at
	case s.object > 0:
		e.Source = filepath.Join(dir, objectName(s))
	}
}

// located is t, of which p is the plan, with sources.
func (p *bundlePlan) located(dir string, t Tree) Tree {
	bundle := filepath.Join(dir, bundleName)
	return func(fn func(e *snapshot.Entry) error) error {
		i := 0
		return t(func(e *snapshot.Entry) error {
			if i == len(p.spots) {
				return errChanged
			}
			if e.Type == snapshot.TypeFile {
				p.source(dir, bundle, i, e)
			}
			i++
			return fn(e)
		})
	}
}

var errChanged = errors.New("the tree is another one")

func bundleHeader(id snapshot.ID) []byte {
	b := make([]byte, bundleBlock)
	n := copy(b, bundleMagic)
	binary.LittleEndian.PutUint32(b[n:], bundleVersion)
	copy(b[n+4:], id)
	return b
}

// blockSet is a set of a bundle's blocks. It may be added to from several
// goroutines.
type blockSet []uint64

func newBlockSet(bytes int64) blockSet { return make(blockSet, bytes/bundleBlock/64+1) }

// add puts every block that has one of n bytes from off on into the set.
func (s blockSet) add(off, n int64) {
	if n <= 0 {
		return
	}
	from, to := uint64(off/bundleBlock), uint64((off+n-1)/bundleBlock)
	for from <= to {
		end := min(to, from|63)
		mask := ^uint64(0) >> (63 - (end - from)) << (from & 63)
		atomic.OrUint64(&s[from/64], mask)
		from = end + 1
	}
}

// absent calls f for each run of blocks of a bundle that are not in the set.
func (s blockSet) absent(bytes int64, f func(off, n int64) error) error {
	last := uint64(bytes / bundleBlock)
	for at := uint64(0); at < last; {
		at = s.next(at, last, 0)
		end := s.next(at, last, ^uint64(0))
		if at < end {
			if err := f(int64(at)*bundleBlock, int64(end-at)*bundleBlock); err != nil {
				return err
			}
		}
		at = end
	}
	return nil
}

// next returns the first block from at on that is absent, or present with flip 0
// or all ones.
func (s blockSet) next(at, last, flip uint64) uint64 {
	for at < last {
		// Zero bits of the word are what is absent; those below at do not count.
		if w := (^s[at/64] ^ flip) >> (at % 64); w != 0 {
			return min(at+uint64(bits.TrailingZeros64(w)), last)
		}
		at = at/64*64 + 64
	}
	return last
}
