package store

import (
	"runtime/debug"
	"sync"
)

// leanEntries is from how many entries on a tree is gone through leanly: what is in
// memory of it is tables without pointers, which the collector passes over.
const leanEntries = 256 << 10

// leanPercent is by how much of what is in use the heap may grow meanwhile.
const leanPercent = 25

// leaning counts who asked for it.
var leaning struct {
	mu  sync.Mutex // guards all
	n   int
	was int
}

// lean has the collector work more often while a tree of n entries is gone through, if
// these are many: until done is called.
func lean(n int) (done func()) {
	if n < leanEntries {
		return func() {}
	}
	l := &leaning
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; l.n == 1 {
		if l.was = debug.SetGCPercent(leanPercent); l.was >= 0 && l.was < leanPercent {
			debug.SetGCPercent(l.was)
		}
	}
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.n--; l.n == 0 {
			debug.SetGCPercent(l.was)
		}
	})
}

// part is how many of the entries that are gone through are in memory as one.
func (s *Store) part(n int) int {
	if s.fewer > 0 {
		return s.fewer
	}
	return n
}
