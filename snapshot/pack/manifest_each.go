package pack

import (
	"crypto/sha256"

	"github.com/roost-ci/roost/snapshot"
)

// EachEntry is ReadManifest for who needs no tree: it calls fn for each entry. What fn is
// given, and what that points to, is fn's only until it returns. That b is the manifest d
// is checked meanwhile, on another core, and if it is not, or damaged, the error is a
// *snapshot.CorruptError: what fn was told is not to be believed before EachEntry has
// returned nil. An error of fn ends it and is returned as it is.
func EachEntry(b []byte, d snapshot.Digest, fn func(e *snapshot.Entry) error) error {
	sum := make(chan snapshot.Digest, 1)
	go func() { sum <- sha256.Sum256(b) }()
	wrong, err := eachEntry(b, fn)
	if got := <-sum; got != d {
		return &snapshot.CorruptError{What: manifestWhat, Name: d.String(), Why: "its digest is " + got.String()}
	}
	if wrong != nil {
		return corrupt(manifestWhat, d, wrong)
	}
	return err
}

// eachEntry tells mistakes in b, wrong, from errors of fn.
func eachEntry(b []byte, fn func(e *snapshot.Entry) error) (wrong, err error) {
	if err := checkHeader(b, manifestMagic, manifestV1); err != nil {
		return err, nil
	}
	c := &cursor{b: b[:max(packHeader, len(b)-sha256.Size)], off: packHeader}
	n := c.count("number of entries", minEntry)
	if n > maxEntries {
		c.fail("%d entries, more than %d", n, maxEntries)
	}
	if c.err != nil {
		return c.err, nil
	}
	r := entryReader{chunks: idCodec{}}
	room := make([]snapshot.Chunk, 256)
	var e snapshot.Entry
	for range n {
		r.slab = room
		e = snapshot.Entry{Path: r.path(c)}
		r.entry(c, &e)
		if c.err != nil {
			return c.err, nil
		}
		if err := fn(&e); err != nil {
			return nil, err
		}
		if len(e.Chunks) > len(room) {
			room = e.Chunks
		}
	}
	return c.end(), nil
}
