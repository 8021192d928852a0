package gitlab

import "hash/crc32"

// crcJoin is the CRC-32 (IEEE) of a followed by b, given that of a, that of b and
// the length of b. GitLab is told the checksum of the whole trace, of which the
// runner knows only its own part.
//
// Appending n zero bytes to a message is linear over GF(2) on its CRC register, so
// it is a 32x32 bit matrix; that for n bytes is made by squaring the one for one bit.
func crcJoin(a, b uint32, lenB int64) uint32 {
	if lenB <= 0 {
		return a
	}
	m := gf2{crc32.IEEE} // one zero bit, reflected: shift right, with the polynomial for bit 0
	for i := 1; i < 32; i++ {
		m[i] = 1 << (i - 1)
	}
	for range 3 { // a byte has 8 bits
		m = m.square()
	}
	for n := lenB; n > 0; n >>= 1 {
		if n&1 == 1 {
			a = m.times(a)
		}
		m = m.square()
	}
	return a ^ b
}

// gf2 is a matrix over GF(2); element i is what bit i becomes.
type gf2 [32]uint32

func (m *gf2) times(v uint32) uint32 {
	var sum uint32
	for i := 0; v != 0; i, v = i+1, v>>1 {
		if v&1 == 1 {
			sum ^= m[i]
		}
	}
	return sum
}

func (m *gf2) square() gf2 {
	var out gf2
	for i := range m {
		out[i] = m.times(m[i])
	}
	return out
}
