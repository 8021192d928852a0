package view

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// The copy driver keeps two small text files beside a tree. Names are quoted as
// in Go source, since they can be any bytes; one line each.
//
// "meta" is written once, before a view's tree is moved to its target:
//
//	roost-copy 1
//	target "/abs/path" INODE         where the tree goes, and its root's inode
//	s INODE CTIME "path"             for each file, as it was handed to the job
//	end SHA256                       of all before it
//
// A file that has the same inode and the same ctime at the end has not been
// touched: no program can set a ctime. So nothing has to be read.
//
// "modes" lists what the tree's owner can't read, where the owner is not root: it
// is made readable when the view is sealed, and this is what it was.
//
//	MODE "path"                      octal
const copyHeader = "roost-copy 1"

const (
	modesName    = "modes"
	metaEnd      = "end "
	maxMetaBytes = 1 << 30
)

type stamp struct {
	ctime int64
	path  string
}

type copyMeta struct {
	target string
	root   uint64 // inode of the tree's root, 0: the system has none
	stamps map[uint64]stamp
}

func (l layout) writeMeta(id snapshot.ID, m *copyMeta) error {
	return durable.WriteFile(filepath.Join(l.dir(id), metaName), 0o600, func(w io.Writer) error {
		h := sha256.New()
		b := bufio.NewWriterSize(io.MultiWriter(w, h), 1<<16)
		fmt.Fprintf(b, "%s\ntarget %q %d\n", copyHeader, m.target, m.root) //nolint:errcheck // Flush tells
		line := make([]byte, 0, 256)
		for ino, s := range m.stamps {
			line = strconv.AppendUint(append(line[:0], "s "...), ino, 10)
			line = strconv.AppendInt(append(line, ' '), s.ctime, 10)
			line = strconv.AppendQuote(append(line, ' '), s.path)
			b.Write(append(line, '\n')) //nolint:errcheck // Flush tells
		}
		if err := b.Flush(); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "%s%x\n", metaEnd, h.Sum(nil))
		return err
	})
}

// readMeta returns fs.ErrNotExist for a layer without one.
func (l layout) readMeta(id snapshot.ID) (*copyMeta, error) {
	name := filepath.Join(l.dir(id), metaName)
	m := &copyMeta{stamps: map[uint64]stamp{}}
	n, ended := 0, false
	h := sha256.New()
	err := eachLine(name, func(line string) error {
		if ended {
			return errors.New("something stands behind its end")
		}
		if sum, ok := strings.CutPrefix(line, metaEnd); ok {
			if ended = sum == hex.EncodeToString(h.Sum(nil)); !ended {
				return errors.New("its checksum is wrong")
			}
			return nil
		}
		io.WriteString(h, line+"\n") //nolint:errcheck // a hash takes everything
		n++
		f := strings.SplitN(line, " ", 4)
		var err error
		switch {
		case n == 1 && line == copyHeader:
		case n == 1:
			err = fmt.Errorf("starts with %.40q: %w", line, snapshot.ErrNewerFormat)
		case f[0] == "target":
			i := strings.LastIndexByte(line, ' ')
			if i < len("target ") {
				return fmt.Errorf("line %.80q is not understood", line)
			}
			if m.target, err = strconv.Unquote(line[len("target "):i]); err == nil {
				m.root, err = strconv.ParseUint(line[i+1:], 10, 64)
			}
		case f[0] == "s" && len(f) == 4:
			var ino uint64
			var s stamp
			if ino, err = strconv.ParseUint(f[1], 10, 64); err != nil {
				break
			}
			if s.ctime, err = strconv.ParseInt(f[2], 10, 64); err != nil {
				break
			}
			s.path, err = strconv.Unquote(f[3])
			m.stamps[ino] = s
		default:
			err = fmt.Errorf("line %.80q is not understood", line)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if !ended {
		return nil, &snapshot.CorruptError{What: "file", Name: name, Why: "cut short"}
	}
	return m, nil
}

// eachLine hands out the lines of a file of bounded size.
func eachLine(name string, f func(string) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read from
	s := bufio.NewScanner(io.LimitReader(file, maxMetaBytes))
	s.Buffer(nil, 8*snapshot.MaxPathBytes)
	for s.Scan() {
		err := f(s.Text())
		if errors.Is(err, snapshot.ErrNewerFormat) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err != nil {
			return &snapshot.CorruptError{What: "file", Name: name, Why: err.Error()}
		}
	}
	return s.Err()
}
