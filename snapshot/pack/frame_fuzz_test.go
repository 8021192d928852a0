package pack

import (
	"bytes"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
)

// FuzzFrame is an attacker who writes what a frame holds and says how long it is:
// what comes out has just that length, whatever the bytes say, and no more memory
// than that is used.
func FuzzFrame(f *testing.F) {
	bomb, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true))
	require.NoError(f, err)
	defer bomb.Close()
	for _, n := range []int{0, 1, 100, 5000, 1 << 20} {
		plain := bytes.Repeat([]byte("frame"), n/5+1)
		for _, z := range [][]byte{compress(nil, plain), bomb.EncodeAll(plain, nil), append(compress(nil, plain), compress(nil, plain)...)} {
			f.Add(z, uint32(len(plain)))
			f.Add(z, uint32(len(plain)-1))
			f.Add(z, uint32(len(plain)+1))
			f.Add(z, uint32(2*len(plain)))
		}
	}
	f.Add([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00skip"), uint32(4)) // a frame to be skipped
	f.Fuzz(func(t *testing.T, z []byte, n uint32) {
		if n > 4<<20 {
			return
		}
		buf := make([]byte, n, int(n)+64)
		for i := range buf[:cap(buf)] {
			buf[:cap(buf)][i] = 0xaa
		}
		out, err := decompress(buf[:0:n], z)
		for i, b := range buf[n:cap(buf)] {
			require.EqualValues(t, 0xaa, b, "byte %d behind the end", i)
		}
		if err == nil {
			require.Len(t, out, int(n))
		}
	})
}
