package store

import (
	"bufio"
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
	"github.com/roost-ci/roost/snapshot/view"
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
// relative sources: magic "RSTFAN\x00\x02" | gob of their number, then of one
// snapshot.Change after the other | SHA-256. Version 1 had them as one list.
const (
	srcMagic   = "RSTSRC\x00\x02"
	faninMagic = "RSTFAN\x00\x02"
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

// writeFanin keeps the merge that a view shows, of n changes.
func (s *Store) writeFanin(id snapshot.ID, n int, changes view.Changes) error {
	err := writeSummedBy(s.faninPath(id), func(w io.Writer) error {
		if _, err := io.WriteString(w, faninMagic); err != nil {
			return err
		}
		enc := gob.NewEncoder(w)
		if err := enc.Encode(n); err != nil {
			return err
		}
		return changes(func(c *snapshot.Change) error {
			if c.Entry.Source != "" {
				src, ok := s.rel(c.Entry.Source)
				if !ok {
					return fmt.Errorf("%q lies outside of the store", c.Entry.Source)
				}
				c.Entry.Source = src
			}
			return enc.Encode(c)
		})
	})
	if err != nil {
		return fmt.Errorf("fan-in of %s: %w", id, err)
	}
	return nil
}

// readFanin is the merge that the view of a layer showed. The file is checked each time
// that it is gone through.
func (s *Store) readFanin(id snapshot.ID) view.Changes {
	return func(fn func(c *snapshot.Change) error) error {
		_, err := s.eachOfFanin(id, fn)
		return err
	}
}

// eachOfFanin returns how many changes there are. fn may be nil.
func (s *Store) eachOfFanin(id snapshot.ID, fn func(c *snapshot.Change) error) (n int, err error) {
	f, body, version, err := openSummed(s.faninPath(id), faninMagic)
	if err != nil {
		return 0, err
	}
	defer f.Close() //nolint:errcheck // only read
	dec := gob.NewDecoder(bufio.NewReaderSize(body, 1<<16))
	var list []snapshot.Change // of version 1
	if version == 1 {
		err = dec.Decode(&list)
		n = len(list)
	} else {
		err = dec.Decode(&n)
	}
	for i := 0; err == nil && i < n && fn != nil; i++ {
		var c snapshot.Change
		if version == 1 {
			c = list[i]
		} else if err = dec.Decode(&c); err != nil {
			break
		}
		if c.Entry.Source != "" {
			c.Entry.Source = s.dir + "/" + c.Entry.Source
		}
		if err := fn(&c); err != nil {
			return n, err
		}
	}
	if err != nil {
		return 0, &snapshot.CorruptError{What: "fan-in", Name: string(id), Why: err.Error()}
	}
	return n, nil
}

// writeSummed writes b and its digest to a file of ours.
func writeSummed(path string, b []byte) error {
	return writeSummedBy(path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// writeSummedBy writes what write does, and its digest, to a file of ours.
func writeSummedBy(path string, write func(w io.Writer) error) error {
	return durable.WriteFile(path, 0o600, func(f io.Writer) error {
		h := sha256.New()
		w := bufio.NewWriterSize(io.MultiWriter(f, h), 1<<16)
		if err := write(w); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		_, err := f.Write(h.Sum(nil))
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
	if err := checkMagic(name, magic, b[:max(0, n)]); err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil, wrongSum(name)
	}
	return b[len(magic):n], nil
}

// openSummed is readSummed of a file that is not to be in memory: it was checked when it
// returns. The caller closes it.
func openSummed(path, magic string) (f *os.File, body io.Reader, version byte, err error) {
	f, size, err := openSized(path)
	if err != nil {
		return nil, nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close() //nolint:errcheck // only read
		}
	}()
	name, n := filepath.Base(path), size-sha256.Size
	head := make([]byte, max(0, min(n, int64(len(magic)))))
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, n), head); err != nil {
		return nil, nil, 0, err
	}
	if err := checkMagic(name, magic, head); err != nil {
		return nil, nil, 0, err
	}
	h, sum := sha256.New(), make([]byte, sha256.Size)
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, n)); err != nil {
		return nil, nil, 0, err
	}
	if _, err := f.ReadAt(sum, n); err != nil {
		return nil, nil, 0, err
	}
	if !bytes.Equal(h.Sum(nil), sum) {
		return nil, nil, 0, wrongSum(name)
	}
	at := int64(len(magic))
	return f, io.NewSectionReader(f, at, n-at), head[len(magic)-1], nil
}

// checkMagic checks how a file of ours begins.
func checkMagic(name, magic string, b []byte) error {
	last := len(magic) - 1
	if len(b) < len(magic) || string(b[:last]) != magic[:last] {
		return &snapshot.CorruptError{What: "file", Name: name, Why: "it does not begin as such a file does"}
	}
	if b[last] > magic[last] {
		return fmt.Errorf("%s: %w", name, snapshot.ErrNewerFormat)
	}
	return nil
}

func wrongSum(name string) error {
	return &snapshot.CorruptError{What: "file", Name: name, Why: "its checksum is wrong"}
}
