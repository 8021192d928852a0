package pack

// Content-defined cutting: a boundary stands where the last 64 bytes say so, and
// moves with them when bytes are put in or taken out before it.
//
// It is FastCDC with normalisation: boundaries are rarer below aimCut than
// behind it, so chunks are much alike in size and few end at maxCut.
const (
	// minCut is the least that is cut off, but for what is shorter as a whole.
	minCut = 32 << 10
	// aimCut is what most chunks are a little longer than.
	aimCut = 64 << 10
	// maxCut is where a boundary is forced.
	maxCut = 128 << 10
	// lookAhead is what must be there to cut where more follows. A chunk takes in
	// the rest of the content when that is less than minCut, so this is also the
	// most that a chunk can have.
	lookAhead = maxCut + minCut

	// One byte in so many ends a chunk, before aimCut and behind it. Of what was
	// tried this shipped least, after overwrites and after insertions.
	rareOdds  = 256 << 10
	oftenOdds = 8 << 10
	rareCut   = ^uint64(0) / rareOdds
	oftenCut  = ^uint64(0) / oftenOdds

	// gearWindow is how many bytes a boundary depends on: older ones have been
	// shifted out.
	gearWindow = 64
)

// gear gives each byte a random number. It is the same in every version: another
// table would cut everything anew.
var gear = func() (t [256]uint64) {
	x := uint64(0x526f6f7374) // splitmix64
	for i := range t {
		x += 0x9e3779b97f4a7c15
		z := x
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		t[i] = z ^ z>>31
	}
	return t
}()

// nextCut returns how long the first chunk of p is. p is all that is left, or at
// least lookAhead.
func nextCut(p []byte) int {
	if len(p) <= minCut {
		return len(p)
	}
	n := min(len(p), maxCut)
	q := p[:n]
	var h uint64
	for _, b := range q[minCut-gearWindow : minCut] {
		h = h<<1 + gear[b]
	}
	at, h, ok := scan(q[:min(aimCut, n)], minCut, h, rareCut)
	if !ok && n > aimCut {
		at, _, ok = scan(q, aimCut, h, oftenCut)
	}
	if !ok {
		at = n
	}
	if len(p)-at < minCut {
		return len(p)
	}
	return at
}

// scan rolls h over p from at, until it is below limit. It returns the place
// behind the byte that did it.
func scan(p []byte, at int, h, limit uint64) (int, uint64, bool) {
	for ; len(p)-at >= 8; at += 8 {
		b := p[at : at+8 : at+8]
		if h = h<<1 + gear[b[0]]; h < limit {
			return at + 1, h, true
		}
		if h = h<<1 + gear[b[1]]; h < limit {
			return at + 2, h, true
		}
		if h = h<<1 + gear[b[2]]; h < limit {
			return at + 3, h, true
		}
		if h = h<<1 + gear[b[3]]; h < limit {
			return at + 4, h, true
		}
		if h = h<<1 + gear[b[4]]; h < limit {
			return at + 5, h, true
		}
		if h = h<<1 + gear[b[5]]; h < limit {
			return at + 6, h, true
		}
		if h = h<<1 + gear[b[6]]; h < limit {
			return at + 7, h, true
		}
		if h = h<<1 + gear[b[7]]; h < limit {
			return at + 8, h, true
		}
	}
	for ; at < len(p); at++ {
		if h = h<<1 + gear[p[at]]; h < limit {
			return at + 1, h, true
		}
	}
	return at, h, false
}
