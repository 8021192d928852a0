package view

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/roost-ci/roost/snapshot"
)

// stamps are those of a view's meta, at 24 bytes for each: the paths stay in the file.
// Not for use by several goroutines.
type stamps struct {
	all  []stampAt // sorted by inode, which is there once
	file *os.File  // nil: there are none
	line *lineReader
}

type stampAt struct {
	ino   uint64
	ctime int64
	at    int64 // of the line in the file
}

// openStamps reads the stamps of a layer. One that was unpacked has none: no job has seen
// it. The caller closes them.
func (l layout) openStamps(id snapshot.ID) (*stamps, error) {
	s := &stamps{}
	_, err := l.readMeta(id, func(line []byte, at int64) error {
		ino, ctime, _, err := parseStamp(line)
		s.all = append(s.all, stampAt{ino, ctime, at})
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(s.all, func(a, b stampAt) int { return cmp.Or(cmp.Compare(a.ino, b.ino), cmp.Compare(b.at, a.at)) })
	s.all = slices.CompactFunc(s.all, func(a, b stampAt) bool { return a.ino == b.ino }) // the last line stays
	if s.file, err = os.Open(filepath.Join(l.dir(id), metaName)); err != nil {
		return nil, err
	}
	s.line = &lineReader{r: s.file, page: make([]byte, 0, linePage)}
	return s, nil
}

func (s *stamps) close() {
	if s.file != nil {
		s.file.Close() //nolint:errcheck // only read from
	}
}

// path returns at which path a file was handed out that has this inode and ctime now, and
// was not touched since; false if there is none. now is where it is: mostly it is that.
func (s *stamps) path(ino uint64, ctime int64, now string) (string, bool, error) {
	i, ok := slices.BinarySearchFunc(s.all, ino, func(a stampAt, ino uint64) int { return cmp.Compare(a.ino, ino) })
	if !ok || s.all[i].ctime != ctime {
		return "", false, nil
	}
	line, err := s.line.at(s.all[i].at)
	if err != nil {
		return "", false, err
	}
	_, _, quoted, err := parseStamp(line)
	if err != nil {
		return "", false, err
	}
	if n := len(quoted) - 2; n == len(now) && string(quoted[1:1+n]) == now && bytes.IndexByte(quoted, '\\') < 0 {
		return now, true, nil
	}
	was, err := strconv.Unquote(string(quoted))
	return was, err == nil, err
}

// linePage is how much of a file is read at once for a line of it: those of one directory
// stand together.
const linePage = 64 << 10

// lineReader reads lines of a file, whichever is asked for.
type lineReader struct {
	r    io.ReaderAt
	page []byte
	from int64 // of the page
}

// at returns the line that begins there, without its end. It is good until the next call.
func (l *lineReader) at(off int64) ([]byte, error) {
	if i := off - l.from; i >= 0 && i < int64(len(l.page)) {
		if n := bytes.IndexByte(l.page[i:], '\n'); n >= 0 {
			return l.page[i:][:n], nil
		}
	}
	// What stands before it in its directory is asked for, too.
	l.from = max(0, off-linePage/4)
	for room := linePage; ; room *= 2 {
		if cap(l.page) < room {
			l.page = make([]byte, 0, room)
		}
		n, err := l.r.ReadAt(l.page[:room], l.from)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		l.page = l.page[:n]
		if i := off - l.from; i < int64(n) {
			if end := bytes.IndexByte(l.page[i:], '\n'); end >= 0 {
				return l.page[i:][:end], nil
			}
		}
		if err != nil || room > 16*snapshot.MaxPathBytes {
			return nil, io.ErrUnexpectedEOF
		}
	}
}
