package tree

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/roost-ci/roost/snapshot"
)

// alike finds the names that the merge brought together and that a file system which
// folds takes for the same, such as Build and build: each is a conflict, and no policy
// decides it, as it would have to leave out what somebody made. Names that are from the same
// parent were not brought together by the merge.
//
// So both are among what differs, and what is in memory is a number for each of these, and
// the names where two numbers are the same.
func (o *outcome) alike(jobs []string) ([]snapshot.Conflict, error) {
	seed := maphash.MakeSeed()
	number := func(e *snapshot.Entry) uint64 { return maphash.String(seed, foldName(e.Path)) }
	var all []uint64
	if err := o.brought(func(e *snapshot.Entry, _ []byte) { all = append(all, number(e)) }); err != nil {
		return nil, err
	}
	slices.Sort(all)
	twice := map[uint64]bool{}
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			twice[all[i]] = true
		}
	}
	if len(twice) == 0 {
		return nil, nil
	}
	type name struct {
		path, folded string
		owner        int // the first parent that has it so, or 0
	}
	var names []name
	err := o.brought(func(e *snapshot.Entry, note []byte) {
		if twice[number(e)] {
			names = append(names, name{strings.Clone(e.Path), foldName(e.Path), o.owner(note)})
		}
	})
	slices.SortFunc(names, func(a, b name) int {
		return cmp.Or(comparePaths(a.folded, b.folded), comparePaths(a.path, b.path))
	})
	var found []snapshot.Conflict
	var below topmost // said at the directory once
	for i := 1; i < len(names); i++ {
		a, b := names[i-1], names[i]
		if a.folded != b.folded || a.owner == b.owner || below.covers(a.folded) {
			continue
		}
		below.add(a.folded)
		found = append(found, snapshot.Conflict{
			Path: a.path, Other: b.path, Kind: snapshot.ConflictCase, Jobs: [2]string{jobs[a.owner], jobs[b.owner]},
		})
	}
	slices.SortFunc(found, func(a, b snapshot.Conflict) int { return comparePaths(a.Path, b.Path) })
	return found, err
}

// brought calls fn for each entry of the merged tree that some parent has not, or has
// otherwise.
func (o *outcome) brought(fn func(e *snapshot.Entry, note []byte)) error {
	return o.each(func(e *snapshot.Entry, note []byte) error {
		if note[0] == 0 && anyBit(note) {
			fn(e, note)
		}
		return nil
	})
}

// owner is the first parent that has an entry as the merged tree has it, counted from 1; 0
// if none has.
func (o *outcome) owner(note []byte) int {
	for i := range o.parents {
		if !hasBit(note, i) {
			return i + 1
		}
	}
	return 0
}

// foldName makes paths equal that differ in case alone, rune by rune as file systems do:
// Unicode's simple case folding. Bytes that are no UTF-8 stay.
func foldName(p string) string {
	for i := range len(p) {
		if c := p[i]; c >= 0x80 || 'a' <= c && c <= 'z' {
			return foldRunes(p)
		}
	}
	return p
}

func foldRunes(p string) string {
	b := make([]byte, 0, len(p))
	for len(p) > 0 {
		r, n := utf8.DecodeRuneInString(p)
		if r == utf8.RuneError {
			b = append(b, p[:n]...)
		} else {
			b = utf8.AppendRune(b, foldRune(r))
		}
		p = p[n:]
	}
	return string(b)
}

// foldRune is the least of the runes that differ from r in case alone.
func foldRune(r rune) rune {
	least := r
	for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
		least = min(least, f)
	}
	return least
}
