package durable

import "io"

// MaxWrite is how much is best written to a file by one call. The kernel looks for pages
// as large as the write: beyond eight small ones it moves others about for that, where
// memory is in pieces, which can take longer than all else, and whoever writes to the same
// file waits and burns the other core. More than this is hardly faster where it isn't.
const MaxWrite = 32 << 10

// WriteAt writes b to w from off on, MaxWrite bytes at a time.
func WriteAt(w io.WriterAt, b []byte, off int64) (n int, err error) {
	for {
		k, err := w.WriteAt(b[n:min(len(b), n+MaxWrite)], off+int64(n))
		if n += k; err != nil || n == len(b) {
			return n, err
		}
	}
}
