package blob

import (
	"fmt"
	"testing"
)

// Whatever a Range header says, the range lies within the blob or is refused.
func FuzzParseRange(f *testing.F) {
	for _, h := range []string{"bytes=0-0", "bytes=-5", "bytes=5-", "bytes=9-3", "bytes=0-1,2-3", "bytes=--1", "bytes= 1-2", "items=0-1"} {
		f.Add(h, int64(10))
	}
	f.Fuzz(func(t *testing.T, h string, size int64) {
		if size < 0 {
			return
		}
		off, n, ok := parseRange(h, size)
		if !ok || off < 0 {
			return
		}
		if n <= 0 || off > size || n > size-off {
			t.Fatalf("%q of %d bytes: %d at %d", h, size, n, off)
		}
	})
}

// What is accepted as a Content-Range says what it seems to say.
func FuzzParseContentRange(f *testing.F) {
	for _, h := range []string{"bytes 0-0/1", "bytes 5-9/*", "bytes */10", "bytes 9-3/10", "bytes 1-2/2", "bytes 1-2"} {
		f.Add(h)
	}
	f.Fuzz(func(t *testing.T, h string) {
		c, ok := parseContentRange(h)
		if !ok {
			return
		}
		if c.first < 0 || c.last < c.first || (c.size >= 0 && c.last >= c.size) {
			t.Fatalf("%q: %+v", h, c)
		}
		again := fmt.Sprintf("bytes %d-%d/%d", c.first, c.last, c.size)
		if c.size < 0 {
			again = fmt.Sprintf("bytes %d-%d/*", c.first, c.last)
		}
		if d, ok := parseContentRange(again); !ok || d != c {
			t.Fatalf("%q: %+v, but %q: %+v", h, c, again, d)
		}
	})
}
