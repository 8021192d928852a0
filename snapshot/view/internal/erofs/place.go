package erofs

import (
	"fmt"
	"math"
	"math/bits"
)

// firstNID is the first place that is given away: no inode has the number 0,
// which programs take for "no file", or 1.
const firstNID = 2

// bitmap says which slots are in use.
type bitmap []uint64

func (b *bitmap) grow(n uint64) {
	if words := int((n + 63) / 64); words > len(*b) {
		*b = append(*b, make([]uint64, max(words-len(*b), len(*b)/4))...)
	}
}

func (b bitmap) get(i uint64) bool { return i/64 < uint64(len(b)) && b[i/64]>>(i%64)&1 != 0 }

func (b *bitmap) set(from, n uint64) {
	b.grow(from + n)
	for i := from; i < from+n; {
		if i%64 == 0 && from+n-i >= 64 {
			(*b)[i/64] = math.MaxUint64
			i += 64
			continue
		}
		(*b)[i/64] |= 1 << (i % 64)
		i++
	}
}

// nextSet returns the first set bit in [from, end), or end.
func (b bitmap) nextSet(from, end uint64) uint64 { return b.next(from, end, 0) }

// nextClear returns the first clear bit from there on.
func (b bitmap) nextClear(from uint64) uint64 { return b.next(from, math.MaxUint64, math.MaxUint64) }

func (b bitmap) next(from, end uint64, flip uint64) uint64 {
	for i := from; i < end; i = (i/64 + 1) * 64 {
		if i/64 >= uint64(len(b)) {
			if flip != 0 {
				return i
			}
			return end
		}
		if w := (b[i/64] ^ flip) >> (i % 64); w != 0 {
			return min(i+uint64(bits.TrailingZeros64(w)), end)
		}
	}
	return end
}

// placer gives inodes their places: first those that the base had, as long as the
// inode fits there, then the first holes that are large enough.
type placer struct {
	used    bitmap
	wanted  bitmap     // places that base's inodes start at
	cursors [16]uint64 // by slots: no hole of that many lies before; the last for all larger
}

// want notes that an inode would like to stay at nid. It is false when another
// one asked first, as the second name of a group that was split does.
func (p *placer) want(nid uint32) bool {
	if p.wanted.get(uint64(nid)) {
		return false
	}
	p.wanted.set(uint64(nid), 1)
	return true
}

// keep takes nid, which was wanted, for an inode of n slots unless it grew and
// another one is wanted or stands where it would end.
func (p *placer) keep(nid, n uint32) bool {
	from, end := uint64(nid), uint64(nid)+uint64(n)
	if from < firstNID || end > math.MaxUint32 ||
		p.wanted.nextSet(from+1, end) < end || p.used.nextSet(from, end) < end {
		return false
	}
	p.used.set(from, uint64(n))
	return true
}

// take finds a place for an inode of n slots where fits agrees.
func (p *placer) take(n uint32, fits func(nid uint32) bool) (uint32, error) {
	cursor := &p.cursors[min(int(n), len(p.cursors)-1)]
	at := max(*cursor, firstNID)
	for {
		at = p.used.nextClear(at)
		end := at + uint64(n)
		if end > math.MaxUint32 {
			return 0, fmt.Errorf("erofs: inodes: %w", ErrTooLarge)
		}
		switch next := p.used.nextSet(at, end); {
		case next < end:
			at = next
		case !fits(uint32(at)):
			at++
		default:
			p.used.set(at, uint64(n))
			*cursor = end
			return uint32(at), nil
		}
	}
}

// end is the first slot behind the last one in use.
func (p *placer) end() uint64 {
	for i := len(p.used) - 1; i >= 0; i-- {
		if p.used[i] != 0 {
			return uint64(i*64 + bits.Len64(p.used[i]))
		}
	}
	return 0
}
