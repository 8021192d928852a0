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

// manifests/<id>.stamps says which inodes the files of a tree were when it was
// created from a directory, so that the next Create on it need not read those that
// nobody has written to since:
//
//	magic "RSTSTMP\x01" | manifest digest [32] | u32 n | n × u64 device
//	one record for each regular file, in the order of the manifest:
//	   u8 device+1, 0: nothing is known · u64 inode · i64 ctime in nanoseconds
//	SHA-256 [32]
//
// Numbers are little endian. The file is not synced: it only saves time, and what
// is left of a torn one is found by its digest.
const stampMagic = "RSTSTMP\x01"

const stampBytes = 1 + 8 + 8

// Times of files are not finer than this: a write that follows the scan may leave
// a ctime that was there before. So what was that young is not stamped.
const (
	fineTick   = 25 * time.Millisecond
	coarseTick = 2 * time.Second // where they are whole seconds
)

// stamp is what is known of one file.
type stamp struct {
	dev, ino uint64
	ctime    int64
}

func (s *Store) stampPath(id snapshot.ID) string {
	return filepath.Join(s.dir, "manifests", string(id)+".stamps")
}

// writeStamps notes the inodes of m's files, which were looked at no earlier than
// began.
func (s *Store) writeStamps(id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest, inodes []tree.Inode, began time.Time) error {
	l := stampList{began: began}
	for i := range m.Entries {
		if m.Entries[i].Type == snapshot.TypeFile {
			l.add(&inodes[i])
		}
	}
	return s.writeStampList(id, d, &l)
}

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

// stampList gathers the stamps of files, which were looked at no earlier than began,
// in the order of a manifest.
type stampList struct {
	began   time.Time
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

// ctime returns that of the i-th file, known or not.
func (l *stampList) ctime(i int) int64 {
	return int64(binary.LittleEndian.Uint64(l.records[i*stampBytes+1+8:]))
}

// head is what stands before the records.
func (l *stampList) head(d snapshot.Digest) []byte {
	b := append([]byte(stampMagic), d[:]...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.devs)))
	for _, dev := range l.devs {
		b = binary.LittleEndian.AppendUint64(b, dev)
	}
	return b
}

// readStamps returns what is known of m's files, in the order of m; the zero stamp
// says nothing, and so does nil: there is no such file, or it is damaged.
func (s *Store) readStamps(id snapshot.ID, d snapshot.Digest, m *snapshot.Manifest) []stamp {
	b, err := os.ReadFile(s.stampPath(id))
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			s.log.Warn("can't read which files are unchanged: all are read", "snapshot", id, "error", err)
		}
		return nil
	}
	st := decodeStamps(b, d, m)
	if st == nil {
		s.log.Warn("the list of unchanged files is damaged: all are read", "snapshot", id)
	}
	return st
}

func decodeStamps(b []byte, d snapshot.Digest, m *snapshot.Manifest) []stamp {
	head := len(stampMagic) + len(d) + 4
	n := len(b) - sha256.Size
	if n < head || !bytes.HasPrefix(b, append([]byte(stampMagic), d[:]...)) {
		return nil
	}
	if sum := sha256.Sum256(b[:n]); !bytes.Equal(sum[:], b[n:]) {
		return nil
	}
	devs := int(binary.LittleEndian.Uint32(b[head-4:]))
	b = b[head:n]
	if devs > 255 || len(b) < 8*devs {
		return nil
	}
	list := b[:8*devs]
	b = b[8*devs:]
	out := make([]stamp, len(m.Entries))
	for i := range m.Entries {
		if m.Entries[i].Type != snapshot.TypeFile {
			continue
		}
		if len(b) < stampBytes || int(b[0]) > devs {
			return nil
		}
		if at := int(b[0]); at > 0 {
			out[i] = stamp{
				dev: binary.LittleEndian.Uint64(list[8*(at-1):]),
				ino: binary.LittleEndian.Uint64(b[1:]), ctime: int64(binary.LittleEndian.Uint64(b[9:])),
			}
		}
		b = b[stampBytes:]
	}
	if len(b) > 0 {
		return nil
	}
	return out
}

// adopt gives files of m that nobody has written to since base was made the
// chunks that they have there, and returns how many entries are the same in all.
func adopt(m *snapshot.Manifest, inodes []tree.Inode, base *snapshot.Manifest, stamps []stamp) {
	if base == nil || stamps == nil {
		return
	}
	at := 0
	for i := range m.Entries {
		e := &m.Entries[i]
		c := -1
		for at < len(base.Entries) {
			if c = snapshot.ComparePaths(base.Entries[at].Path, e.Path); c >= 0 {
				break
			}
			at++
		}
		if at == len(base.Entries) {
			return
		}
		b := &base.Entries[at]
		if c != 0 || e.Type != snapshot.TypeFile || b.Type != snapshot.TypeFile || b.Chunks == nil ||
			b.Size != e.Size || b.MTime != e.MTime {
			continue
		}
		if st := (stamp{inodes[i].Dev, inodes[i].Ino, inodes[i].CTime}); st.ctime != 0 && st == stamps[at] {
			e.Chunks = b.Chunks
		}
	}
}
