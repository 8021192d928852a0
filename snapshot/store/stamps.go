package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// manifests/<id>.stamps says which inodes the entries of a tree were when it was
// created from a directory, so that the next Create on it need not read those that
// nobody has written to since, and sees soon that there is none:
//
//	magic "RSTSTMP\x02" | manifest digest [32] | u8 flags | u32 n | n × u64 device
//	one record for each entry, in the order of the manifest:
//	   u8 device+1, 0: nothing is known · u64 inode · i64 ctime in nanoseconds
//	SHA-256 [32]
//
// Numbers are little endian. The file is not synced: it only saves time, and what
// is left of a torn one is found by its digest. \x01 had records of files alone.
const stampMagic = "RSTSTMP\x02"

// Flags of a list of stamps.
const (
	stampOwners  = 1 << iota // owners were recorded
	stampPartial             // something was left out
)

const stampBytes = 1 + 8 + 8

// Times of files are not finer than this: a write that follows the scan may leave
// a ctime that was there before. So what was that young is not stamped.
const (
	fineTick   = 25 * time.Millisecond
	coarseTick = 2 * time.Second // where they are whole seconds
)

func (s *Store) stampPath(id snapshot.ID) string {
	return filepath.Join(s.dir, "manifests", string(id)+".stamps")
}

// writeStampList makes the file of a snapshot.
func (s *Store) writeStampList(id snapshot.ID, d snapshot.Digest, l *stampList) error {
	f, err := os.OpenFile(s.stampPath(id), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	h := sha256.New()
	w := io.MultiWriter(f, h)
	_, err = w.Write(l.head(d))
	_, rerr := w.Write(l.records)
	_, serr := f.Write(h.Sum(nil))
	return errors.Join(err, rerr, serr, f.Close())
}

// linkStamps gives an equal tree the stamps of another, which are never written to.
func (s *Store) linkStamps(from, id snapshot.ID) error {
	return os.Link(s.stampPath(from), s.stampPath(id))
}

// stampList gathers the stamps of entries, which were looked at no earlier than began,
// in the order of a manifest.
type stampList struct {
	began   time.Time
	flags   byte
	records []byte
	devs    []uint64
}

func (l *stampList) add(in *tree.Inode) {
	fine, coarse := l.began.Add(-fineTick).UnixNano(), l.began.Add(-coarseTick).UnixNano()
	known := in.CTime != 0 && in.CTime < fine && (in.CTime%int64(time.Second) != 0 || in.CTime < coarse)
	dev := byte(0)
	if known {
		dev = l.device(in.Dev)
	}
	l.records = append(l.records, dev)
	l.records = binary.LittleEndian.AppendUint64(l.records, in.Ino)
	l.records = binary.LittleEndian.AppendUint64(l.records, uint64(in.CTime))
}

// device returns the number of a device, counted from 1; 0 if there are too many.
func (l *stampList) device(dev uint64) byte {
	at := slices.Index(l.devs, dev)
	if at < 0 {
		if len(l.devs) == 255 {
			return 0
		}
		at, l.devs = len(l.devs), append(l.devs, dev)
	}
	return byte(at + 1)
}

// ctime returns that of the i-th entry, known or not.
func (l *stampList) ctime(i int) int64 {
	return int64(binary.LittleEndian.Uint64(l.records[i*stampBytes+1+8:]))
}

// head is what stands before the records.
func (l *stampList) head(d snapshot.Digest) []byte {
	b := append(append([]byte(stampMagic), d[:]...), l.flags)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.devs)))
	for _, dev := range l.devs {
		b = binary.LittleEndian.AppendUint64(b, dev)
	}
	return b
}

// readStamps returns what is known of the n entries of a tree; nil: there is no such
// file, or it is damaged.
func (s *Store) readStamps(id snapshot.ID, d snapshot.Digest) *stamps {
	b, err := os.ReadFile(s.stampPath(id))
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("can't read which files are unchanged: all are read", "snapshot", id, "error", err)
		}
		return nil
	}
	st := decodeStamps(b, d)
	if st == nil {
		s.log.Warn("the list of unchanged files is damaged: all are read", "snapshot", id)
	}
	return st
}

// stamps are those of a tree's entries. Nil has none.
type stamps struct {
	flags   byte
	devs    []uint64
	records []byte
}

// len is the number of entries.
func (st *stamps) len() int {
	if st == nil {
		return 0
	}
	return len(st.records) / stampBytes
}

// at returns the inode that the i-th entry was. One without a ctime is not known.
func (st *stamps) at(i int) (in tree.Inode) {
	r := st.records[i*stampBytes:][:stampBytes]
	if dev := int(r[0]); dev > 0 && dev <= len(st.devs) {
		in = tree.Inode{
			Dev: st.devs[dev-1], Ino: binary.LittleEndian.Uint64(r[1:]), CTime: int64(binary.LittleEndian.Uint64(r[9:])),
		}
	}
	return in
}

func decodeStamps(b []byte, d snapshot.Digest) *stamps {
	head := len(stampMagic) + len(d) + 1 + 4
	n := len(b) - sha256.Size
	if n < head || !bytes.HasPrefix(b, append([]byte(stampMagic), d[:]...)) {
		return nil
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil
	}
	st := &stamps{flags: b[head-5]}
	devs := int(binary.LittleEndian.Uint32(b[head-4:]))
	b = b[head:n]
	if devs > 255 || len(b) < 8*devs {
		return nil
	}
	for range devs {
		st.devs, b = append(st.devs, binary.LittleEndian.Uint64(b)), b[8:]
	}
	if len(b)%stampBytes != 0 {
		return nil
	}
	st.records = b
	return st
}
