package pack

import (
	"math/bits"
	"sync"
)

// buffers are used again, each for what needs about as much.
type buffers struct{ pools [sizeClasses]sync.Pool }

// sizeClasses is how many sizes there are: 4 KiB, 8 KiB, ... 4 MiB, and all above.
const sizeClasses = 12

// class says which buffers hold at least n bytes.
func class(n int) int {
	return min(bits.Len(uint(max(n, 1)-1)>>12), sizeClasses-1)
}

// get returns n bytes of anything.
func (b *buffers) get(n int) []byte {
	if p, ok := b.pools[class(n)].Get().(*[]byte); ok && cap(*p) >= n {
		return (*p)[:n]
	}
	return make([]byte, n, roundUp(n))
}

// put takes a buffer that get returned, or one that is not needed any more.
func (b *buffers) put(p []byte) {
	c := class(cap(p))
	if c > 0 && cap(p) < 4<<10<<c {
		c-- // it serves what needs less
	}
	if cap(p) > 0 {
		b.pools[c].Put(&p)
	}
}

// grow returns p with room for n more bytes.
func (b *buffers) grow(p []byte, n int) []byte {
	if cap(p)-len(p) >= n {
		return p
	}
	q := append(b.get(max(2*len(p), len(p)+n))[:0], p...)
	b.put(p)
	return q
}

// roundUp makes a buffer serve frames that are a little larger, too.
func roundUp(n int) int {
	size := 4 << 10
	for size < n {
		size *= 2
	}
	return size
}
