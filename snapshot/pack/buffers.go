package pack

import "sync"

// buffers are used again. Which one is taken does not matter much: they grow to
// the size that is asked for most.
type buffers struct{ pool sync.Pool }

// get returns n bytes of anything.
func (b *buffers) get(n int) []byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= n {
		return (*p)[:n]
	}
	return make([]byte, n, roundUp(n))
}

func (b *buffers) put(p []byte) {
	if cap(p) > 0 {
		b.pool.Put(&p)
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
