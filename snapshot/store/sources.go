package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// Two files beside a manifest belong to this host alone. Both begin with eight
// bytes of magic, whose last is the version, and end with the SHA-256 of all
// before it.
//
// manifests/<id>.src says where each file of a tree is:
//
//	magic "RSTSRC\x00\x02" | manifest digest [32] | n places | n × (kind, len, bytes)
//	   kind 0: a directory · kind 1: a bundle
//	runs until all entries are covered: (count, ref)
//	   ref 0: no source
//	   ref 1..n of a directory: <place>/<path of the entry>
//	   ref 1..n of a bundle: count × gap, between the end of the content before it
//	      in this bundle (at first 0) and the begin of the entry's, in zigzag form
//	   ref n+1: (len, bytes) the source itself, count is 1
//	SHA-256 [32]
//
// Numbers are unsigned varints; paths are relative to the store, slash-separated.
// Most trees take a few bytes per layer, since neighbours lie in the same one.
//
// manifests/<id>.moved is a second one like it of a layer whose small files were
// gathered.
//
// manifests/<id>.fanin holds the changes that a merge made to a view's base, with
// relative sources: magic "RSTFAN\x00\x01" | gob of []snapshot.Change | SHA-256.
const (
	srcMagic   = "RSTSRC\x00\x02"
	faninMagic = "RSTFAN\x00\x01"
)

func (s *Store) srcPath(id snapshot.ID) string {
	return filepath.Join(s.dir, "manifests", string(id)+".src")
}

func (s *Store) faninPath(id snapshot.ID) string {
	return filepath.Join(s.dir, "manifests", string(id)+".fanin")
}

func (s *Store) writeSources(id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest) error {
	if err := s.writeSourcesTo(s.srcPath(id), d, m); err != nil {
		return fmt.Errorf("sources of %s: %w", id, err)
	}
	return nil
}

func (s *Store) writeSourcesTo(path string, d snapshot.Digest, m *snapshot.Manifest) error {
	b, err := s.encodeSources(d, m)
	if err != nil {
		return err
	}
	return writeSummed(path, b)
}

// readSources fills in the Source of m's entries. On error m is half filled.
func (s *Store) readSources(id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest) error {
	err := s.readSourcesFrom(s.srcPath(id), d, m)
	if err == nil {
		s.relocateIn(s.life, id, m, func() {})
	}
	return err
}

func (s *Store) readSourcesFrom(path string, d snapshot.Digest, m *snapshot.Manifest) error {
	b, err := readSummed(path, srcMagic)
	if err != nil {
		return err
	}
	return s.decodeSources(b, d, m)
}

// reader takes numbers and strings from bytes; bad is set when they run out.
type reader struct {
	b   []byte
	bad bool
}

func (c *reader) number() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.b, c.bad = nil, true
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *reader) signed() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.b, c.bad = nil, true
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *reader) text() string {
	n := c.number()
	if n > uint64(len(c.b)) {
		c.b, c.bad = nil, true
		return ""
	}
	t := string(c.b[:n])
	c.b = c.b[n:]
	return t
}

func appendString(b []byte, t string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(t))), t...)
}

// writeFanin keeps the merge that a view shows.
func (s *Store) writeFanin(id snapshot.ID, changes []snapshot.Change) error {
	out := make([]snapshot.Change, len(changes))
	for i, c := range changes {
		if c.Entry.Source != "" {
			src, ok := s.rel(c.Entry.Source)
			if !ok {
				return fmt.Errorf("fan-in of %s: %q lies outside of the store", id, c.Entry.Source)
			}
			c.Entry.Source = src
		}
		out[i] = c
	}
	b := bytes.NewBufferString(faninMagic)
	if err := gob.NewEncoder(b).Encode(out); err != nil {
		return fmt.Errorf("fan-in of %s: %w", id, err)
	}
	return writeSummed(s.faninPath(id), b.Bytes())
}

func (s *Store) readFanin(id snapshot.ID) ([]snapshot.Change, error) {
	b, err := readSummed(s.faninPath(id), faninMagic)
	if err != nil {
		return nil, err
	}
	var changes []snapshot.Change
	if err := gob.NewDecoder(bytes.NewReader(b)).Decode(&changes); err != nil {
		return nil, &snapshot.CorruptError{What: "fan-in", Name: string(id), Why: err.Error()}
	}
	for i := range changes {
		if src := &changes[i].Entry.Source; *src != "" {
			*src = s.dir + "/" + *src
		}
	}
	return changes, nil
}

// writeSummed writes b and its digest to a file of ours.
func writeSummed(path string, b []byte) error {
	return durable.WriteFile(path, 0o600, func(w io.Writer) error {
		sum := sha256.Sum256(b)
		if _, err := w.Write(b); err != nil {
			return err
		}
		_, err := w.Write(sum[:])
		return err
	})
}

// readSummed returns what stands between magic and digest.
func readSummed(path, magic string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(path)
	n := len(b) - sha256.Size
	if n < len(magic) || string(b[:len(magic)-1]) != magic[:len(magic)-1] {
		return nil, &snapshot.CorruptError{What: "file", Name: name, Why: "it does not begin as such a file does"}
	}
	if b[len(magic)-1] > magic[len(magic)-1] {
		return nil, fmt.Errorf("%s: %w", name, snapshot.ErrNewerFormat)
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil, &snapshot.CorruptError{What: "file", Name: name, Why: "its checksum is wrong"}
	}
	return b[len(magic):n], nil
}
