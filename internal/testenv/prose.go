package testenv

import (
	"math"
	"math/rand/v2"
)

// Prose makes files like those of a source tree, the same ones for the same rng. What
// else draws from rng meanwhile changes what comes next.
type Prose struct {
	rng   *rand.Rand
	words [][]byte
}

// NewProse makes up 4096 words.
func NewProse(rng *rand.Rand) *Prose {
	p := &Prose{rng: rng}
	for range 4096 {
		word := make([]byte, 2+rng.IntN(9))
		for i := range word {
			word[i] = byte('a' + rng.IntN(26))
		}
		p.words = append(p.words, append(word, " \n(.;,_"[rng.IntN(7)]))
	}
	return p
}

// Text is n bytes that compress about as source text does: words of which few are
// frequent.
func (p *Prose) Text(n int) []byte {
	b := make([]byte, 0, n+16)
	for len(b) < n {
		u := p.rng.Float64()
		b = append(b, p.words[int(u*u*u*float64(len(p.words)))]...)
	}
	return b[:n]
}

// Size is drawn so that half of the files are below the median, the mean is a bit
// more, and a few are large, none larger than most.
func (p *Prose) Size(median, most int) int {
	return min(int(float64(median)*math.Exp(p.rng.NormFloat64()*0.9)), most)
}
