package gitlab

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"testing/quick"

	"github.com/stretchr/testify/require"
)

func TestCRCJoin(t *testing.T) {
	require.NoError(t, quick.Check(func(a, b, c []byte) bool {
		all := append(append(append([]byte{}, a...), b...), c...)
		got := crcJoin(crcJoin(crc32.ChecksumIEEE(a), crc32.ChecksumIEEE(b), int64(len(b))), crc32.ChecksumIEEE(c), int64(len(c)))
		return got == crc32.ChecksumIEEE(all)
	}, &quick.Config{MaxCount: 2000}))

	rng := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 5<<20+3)
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	for _, n := range []int{0, 1, 7, 8, 4095, 4096, 1 << 20, len(big)} {
		require.Equal(t, crc32.ChecksumIEEE(big), crcJoin(crc32.ChecksumIEEE(big[:n]), crc32.ChecksumIEEE(big[n:]), int64(len(big)-n)), n)
	}
	require.Equal(t, crc32.ChecksumIEEE([]byte("123456789")), uint32(0xcbf43926))
	require.Equal(t, uint32(0xcbf43926), crcJoin(crc32.ChecksumIEEE([]byte("1234")), crc32.ChecksumIEEE([]byte("56789")), 5))
}
