package pack

import "github.com/roost-ci/roost/snapshot"

// ids calls set with the id of each of n chunks. get returns a chunk.
//
// Two messages at a time, by the processor's own instructions, would take 0.7 of
// the time: SHA-256's rounds wait for each other. That is hand-written assembly in
// the one place where a slip would be believed, so the standard library stays.
func (k keyed) ids(n int, get func(i int) []byte, set func(i int, id snapshot.Digest)) {
	for i := range n {
		set(i, k.id(get(i)))
	}
}
