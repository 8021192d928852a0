package pipeline

import (
	"fmt"
	"strings"
)

// didYouMean returns ` (did you mean "x"?)` for the candidate nearest to word, or
// "" if none is near enough. Of equally near ones the first wins.
func didYouMean(word string, candidates []string) string {
	if best, ok := nearest(word, candidates); ok {
		return fmt.Sprintf(" (did you mean %s?)", quote(best))
	}
	return ""
}

// meant is didYouMean for a problem that will be shown: the search is dear, and
// behind the last one that is shown it would be for nothing.
func (r *report) meant(word string, candidates []string) string {
	if r.full() {
		return ""
	}
	return didYouMean(word, candidates)
}

func nearest(word string, candidates []string) (string, bool) {
	// Longer words are no typing errors, and the cost grows with the square.
	const longest = 64
	if word == "" || len(word) > longest {
		return "", false
	}
	folded := fold(word)
	best, bestDistance := "", allowance(len(word))+1
	for _, c := range candidates {
		if d := len(c) - len(word); len(c) > longest || d >= bestDistance || -d >= bestDistance {
			continue
		}
		if d := distance(folded, fold(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best, best != ""
}

// allowance is how many slips a word of n bytes may have and still be recognised.
func allowance(n int) int {
	switch {
	case n <= 2:
		return 0
	case n <= 4:
		return 1
	case n <= 8:
		return 2
	default:
		return 3
	}
}

// fold makes words equal that differ in the ways people mistake most.
func fold(s string) string {
	return strings.NewReplacer("-", "_", " ", "_").Replace(strings.ToLower(s))
}

// distance counts insertions, deletions, substitutions and swaps of neighbours
// between a and b (optimal string alignment), in bytes.
func distance(a, b string) int {
	before := make([]int, len(b)+1)
	last := make([]int, len(b)+1)
	row := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
