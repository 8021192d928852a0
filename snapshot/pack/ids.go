package pack

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/roost-ci/roost/snapshot"
)

// paired computes the ids of many chunks, two at a time where the processor can: that
// takes little more time than one. One goroutine uses it.
type paired struct {
	keyed
	inner, outer [8]uint32 // states behind the key's two blocks
	lanes        [2]lane
	spare        [8]uint32 // the state of a lane without work
}

// lane is one message on its way through HMAC-SHA-256.
type lane struct {
	state [8]uint32
	left  []byte // whole blocks
	tail  []byte // of the message, less than a block
	size  int    // of the message
	step  laneStep
	index int // of the message
	room  [2 * sha256.BlockSize]byte
}

// laneStep is what left is of.
type laneStep byte

const (
	laneIdle  laneStep = iota
	laneBody           // the message's whole blocks
	laneTail           // its rest, and its length
	laneOuter          // the inner digest
)

func newPaired(key []byte) *paired {
	p := &paired{keyed: newKeyed(key)}
	if !hasBlocks2 {
		return p
	}
	if len(key) > sha256.BlockSize {
		sum := sha256.Sum256(key)
		key = sum[:]
	}
	var in, out [sha256.BlockSize]byte
	copy(in[:], key)
	copy(out[:], key)
	for i := range in {
		in[i] ^= 0x36
		out[i] ^= 0x5c
	}
	p.inner, p.outer = shaStart, shaStart
	blocks2(&p.inner, &p.outer, &in[0], &out[0], 1)
	return p
}

// shaStart is SHA-256's first state, in the order of blocks2.
var shaStart = [8]uint32{0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667, 0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372}

// ids calls set with the id of each of n chunks, in no order. get returns a chunk.
func (p *paired) ids(n int, get func(i int) []byte, set func(i int, id snapshot.Digest)) {
	if !hasBlocks2 || n == 1 {
		for i := range n {
			set(i, p.id(get(i)))
		}
		return
	}
	next := 0
	a, b := &p.lanes[0], &p.lanes[1]
	for {
		for _, l := range []*lane{a, b} {
			for len(l.left) == 0 {
				if l.step == laneOuter {
					set(l.index, l.digest())
					l.step = laneIdle
				}
				if l.step != laneIdle {
					p.advance(l)
					continue
				}
				if next == n {
					break
				}
				l.begin(next, get(next), &p.inner)
				next++
			}
		}
		switch {
		case len(a.left) > 0 && len(b.left) > 0:
			blocks := min(len(a.left), len(b.left)) / sha256.BlockSize
			blocks2(&a.state, &b.state, &a.left[0], &b.left[0], blocks)
			a.left, b.left = a.left[blocks*sha256.BlockSize:], b.left[blocks*sha256.BlockSize:]
		case len(a.left) > 0:
			p.alone(a)
		case len(b.left) > 0:
			p.alone(b)
		default:
			return
		}
	}
}

// alone works on l's blocks while the other lane has none.
func (p *paired) alone(l *lane) {
	blocks2(&l.state, &p.spare, &l.left[0], &l.left[0], len(l.left)/sha256.BlockSize)
	l.left = nil
}

func (l *lane) begin(i int, msg []byte, start *[8]uint32) {
	whole := len(msg) &^ (sha256.BlockSize - 1)
	l.index, l.size, l.state, l.step = i, len(msg), *start, laneBody
	l.left, l.tail = msg[:whole], msg[whole:]
}

// advance goes on to the next step when a lane has no block left.
func (p *paired) advance(l *lane) {
	switch l.step {
	case laneBody:
		n := copy(l.room[:], l.tail)
		l.pad(n, l.size)
		l.step, l.tail = laneTail, nil
	case laneTail:
		sum := l.digest()
		l.state = p.outer
		l.pad(copy(l.room[:], sum[:]), len(sum))
		l.step = laneOuter
	case laneIdle, laneOuter: // have no next
	}
}

// pad makes blocks of the n bytes in room, the end of size bytes behind the key.
func (l *lane) pad(n, size int) {
	end := sha256.BlockSize
	if n+9 > end {
		end *= 2
	}
	clear(l.room[n:end])
	l.room[n] = 0x80
	binary.BigEndian.PutUint64(l.room[end-8:], uint64(sha256.BlockSize+size)*8)
	l.left = l.room[:end]
}

// digest is the state as bytes.
func (l *lane) digest() (d snapshot.Digest) {
	s := &l.state
	for i, w := range [...]uint32{s[3], s[2], s[7], s[6], s[1], s[0], s[5], s[4]} {
		binary.BigEndian.PutUint32(d[4*i:], w)
	}
	return d
}
