package pack

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"

	"github.com/roost-ci/roost/snapshot"
)

// A manifest file. All of it is canonical: one tree has one encoding.
//
//	0         7         8
//	+---------+---------+----------------+---------+- ... -+-----------------+
//	| RSTMANI | version | uvarint count  | entry   | entry | SHA-256 of all  |
//	|         | 1       |                |         |       | bytes before it |
//	+---------+---------+----------------+---------+- ... -+-----------------+
const (
	manifestMagic = "RSTMANI"
	// manifestV1 is the first: paths, metadata, chunk lists.
	manifestV1 = 1
)

// idCodec stores chunks by length and id.
type idCodec struct{}

func (idCodec) size() int { return 2 + len(snapshot.Digest{}) }

func (idCodec) append(b []byte, c snapshot.Chunk) ([]byte, error) {
	b = binary.AppendUvarint(b, uint64(c.Len))
	return append(b, c.ID[:]...), nil
}

func (idCodec) read(c *cursor) (snapshot.Digest, int64) {
	n := int64(c.uvarint("length of a chunk", snapshot.MaxChunkBytes))
	return c.digest(), n
}

// WriteManifest writes the canonical form of m and returns its digest, the SHA-256
// of all that was written. Trees that are Equal entry by entry have one digest.
// Every file must be hashed; Source is not written.
func WriteManifest(w io.Writer, m *snapshot.Manifest) (snapshot.Digest, error) {
	mw, err := NewManifestWriter(w, len(m.Entries))
	if err != nil {
		return snapshot.Digest{}, err
	}
	for i := range m.Entries {
		if err := mw.Append(&m.Entries[i]); err != nil {
			return snapshot.Digest{}, err
		}
	}
	return mw.Close()
}

// ManifestWriter is WriteManifest entry by entry.
type ManifestWriter struct {
	out  summed
	w    entryWriter
	left int
}

// NewManifestWriter begins a manifest of n entries.
func NewManifestWriter(w io.Writer, n int) (*ManifestWriter, error) {
	if n > maxEntries {
		return nil, fmt.Errorf("manifest: %d entries, more than %d", n, maxEntries)
	}
	m := &ManifestWriter{out: summed{w: w, h: sha256.New()}, w: entryWriter{chunks: idCodec{}}, left: n}
	m.out.b = append(m.out.b, manifestMagic...)
	m.out.b = append(m.out.b, manifestV1)
	m.out.b = binary.AppendUvarint(m.out.b, uint64(n))
	return m, nil
}

// Append writes the next entry.
func (m *ManifestWriter) Append(e *snapshot.Entry) (err error) {
	m.left--
	if m.out.b, err = m.w.path(m.out.b, e.Path); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if m.out.b, err = m.w.entry(m.out.b, e); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if err := m.out.flush(1 << 16); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	return nil
}

// Close writes the end and returns the digest. Nothing but the writer that was given
// is left to be closed.
func (m *ManifestWriter) Close() (snapshot.Digest, error) {
	if m.left != 0 {
		return snapshot.Digest{}, fmt.Errorf("manifest: its number of entries is wrong by %d", m.left)
	}
	d, err := m.out.close()
	if err != nil {
		return snapshot.Digest{}, fmt.Errorf("manifest: %w", err)
	}
	return d, nil
}

// ManifestDigest returns the digest of m's canonical form.
func ManifestDigest(m *snapshot.Manifest) (snapshot.Digest, error) {
	return WriteManifest(io.Discard, m)
}

// ReadManifest reads a manifest up to the end of r and returns its digest. It
// accepts the canonical form only, so writing the result gives the same bytes. It
// checks each entry and the order of paths; whether parents are directories and
// names of hard links agree is for package tree to check. Damage is a
// *snapshot.CorruptError, a later version wraps snapshot.ErrNewerFormat.
func ReadManifest(r io.Reader) (*snapshot.Manifest, snapshot.Digest, error) {
	b, err := readAll(r, maxBody)
	if err != nil {
		return nil, snapshot.Digest{}, fmt.Errorf("manifest: %w", err)
	}
	d := snapshot.Digest(sha256.Sum256(b))
	m, err := parseManifest(b)
	if err != nil {
		return nil, snapshot.Digest{}, corrupt(manifestWhat, d, err)
	}
	return m, d, nil
}

func parseManifest(b []byte) (*snapshot.Manifest, error) {
	body, err := unseal(b, manifestMagic, manifestV1)
	if err != nil {
		return nil, err
	}
	c := &cursor{b: body, off: packHeader}
	n := c.count("number of entries", minEntry)
	if n > maxEntries {
		c.fail("%d entries, more than %d", n, maxEntries)
	}
	if c.err != nil {
		return nil, c.err
	}
	m := &snapshot.Manifest{Entries: make([]snapshot.Entry, n)}
	r := entryReader{chunks: idCodec{}}
	for i := range m.Entries {
		e := &m.Entries[i]
		e.Path = r.path(c)
		r.entry(c, e)
		if c.err != nil {
			return nil, c.err
		}
	}
	return m, c.end()
}

// summed writes through a buffer and hashes what it writes.
type summed struct {
	w io.Writer
	h hash.Hash
	b []byte
}

// flush writes the buffer out if it holds at least n bytes.
func (s *summed) flush(n int) error {
	if len(s.b) < n {
		return nil
	}
	s.h.Write(s.b)
	_, err := s.w.Write(s.b)
	s.b = s.b[:0]
	return err
}

// close appends the trailer and returns the digest of everything, trailer included.
func (s *summed) close() (d snapshot.Digest, err error) {
	if err := s.flush(1); err != nil {
		return d, err
	}
	s.b = s.h.Sum(s.b)
	if err := s.flush(1); err != nil {
		return d, err
	}
	s.h.Sum(d[:0])
	return d, nil
}
