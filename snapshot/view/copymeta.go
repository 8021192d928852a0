package view

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
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
// touched: no program can set a ctime. So nothing has to be read. Of an inode that is
// there twice the last line counts.
//
// "modes" lists what the tree's owner can't read, where the owner is not root: it
// is made readable when the view is sealed, and this is what it was.
//
//	MODE "path"                      octal
const copyHeader = "roost-copy 1"

const (
	modesName    = "modes"
	metaEnd      = "end "
	stampPrefix  = "s "
	maxMetaBytes = 1 << 30
)

type stamp struct {
	ctime int64
	path  string
}

type copyMeta struct {
	target string
	root   uint64 // inode of the tree's root, 0: the system has none
}

// metaWriter writes a view's meta while its tree is made: there may be millions of
// stamps. Not for use by several goroutines.
type metaWriter struct {
	file   *durable.File
	sum    hash.Hash
	out    *bufio.Writer
	line   []byte
	latest int64 // ctime of all
}

// newMeta begins the file of id. Whoever calls it calls abort in the end.
func (l layout) newMeta(id snapshot.ID, m *copyMeta) (*metaWriter, error) {
	f, err := durable.Create(l.dir(id))
	if err != nil {
		return nil, err
	}
	w := &metaWriter{file: f, sum: sha256.New()}
	w.out = bufio.NewWriterSize(io.MultiWriter(f, w.sum), 1<<16)
	fmt.Fprintf(w.out, "%s\ntarget %q %d\n", copyHeader, m.target, m.root) //nolint:errcheck // Flush tells
	return w, nil
}

// add writes the stamp of a file.
func (w *metaWriter) add(ino uint64, s stamp) {
	w.latest = max(w.latest, s.ctime)
	line := strconv.AppendUint(append(w.line[:0], stampPrefix...), ino, 10)
	line = strconv.AppendInt(append(line, ' '), s.ctime, 10)
	line = strconv.AppendQuote(append(line, ' '), s.path)
	w.line = append(line, '\n')
	w.out.Write(w.line) //nolint:errcheck // Flush tells
}

// walk adds the stamps of a tree that is there, by the first name of each file.
func (w *metaWriter) walk(ctx context.Context, dir string) error {
	linked := map[uint64]bool{}
	return tree.Walk(ctx, dir, tree.ScanOptions{}, func(it *tree.Item) error {
		if it.Entry.Type != snapshot.TypeFile || it.Inode.CTime == 0 || linked[it.Inode.Ino] {
			return nil
		}
		if it.Inode.Nlink > 1 {
			linked[it.Inode.Ino] = true
		}
		w.add(it.Inode.Ino, stamp{it.Inode.CTime, it.Entry.Path})
		return nil
	})
}

// commit gives the file its name.
func (w *metaWriter) commit(l layout, id snapshot.ID) error {
	if err := w.out.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w.file, "%s%x\n", metaEnd, w.sum.Sum(nil)); err != nil {
		return err
	}
	return w.file.Commit(filepath.Join(l.dir(id), metaName))
}

func (w *metaWriter) abort() { w.file.Abort() }

// readMeta returns fs.ErrNotExist for a layer without one. each, if it is not nil, is
// called for each line that is a stamp, and told where in the file it begins. Whether the
// file is as it was written shows at its end.
func (l layout) readMeta(id snapshot.ID, each func(line []byte, at int64) error) (*copyMeta, error) {
	name := filepath.Join(l.dir(id), metaName)
	m := &copyMeta{}
	n, ended := 0, false
	h, lineEnd := sha256.New(), []byte{'\n'}
	err := eachLine(name, func(line []byte, at int64) error {
		if ended {
			return errors.New("something stands behind its end")
		}
		if sum, ok := bytes.CutPrefix(line, []byte(metaEnd)); ok {
			if ended = string(sum) == hex.EncodeToString(h.Sum(nil)); !ended {
				return errors.New("its checksum is wrong")
			}
			return nil
		}
		h.Write(line)
		h.Write(lineEnd)
		n++
		switch {
		case n == 1 && string(line) == copyHeader:
			return nil
		case n == 1:
			return fmt.Errorf("starts with %.40q: %w", line, snapshot.ErrNewerFormat)
		case bytes.HasPrefix(line, []byte("target ")):
			return m.readTarget(string(line))
		case !bytes.HasPrefix(line, []byte(stampPrefix)):
			return fmt.Errorf("line %.80q is not understood", line)
		case each != nil:
			return each(line, at)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !ended {
		return nil, &snapshot.CorruptError{What: "file", Name: name, Why: "cut short"}
	}
	return m, nil
}

func (m *copyMeta) readTarget(line string) (err error) {
	i := strings.LastIndexByte(line, ' ')
	if i < len("target ") {
		return fmt.Errorf("line %.80q is not understood", line)
	}
	if m.target, err = strconv.Unquote(line[len("target "):i]); err == nil {
		m.root, err = strconv.ParseUint(line[i+1:], 10, 64)
	}
	return err
}

// parseStamp takes a stamp's line apart. The path is quoted.
func parseStamp(line []byte) (ino uint64, ctime int64, path []byte, err error) {
	rest, _ := bytes.CutPrefix(line, []byte(stampPrefix))
	first, rest, _ := bytes.Cut(rest, []byte{' '})
	second, path, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return 0, 0, nil, fmt.Errorf("line %.80q is not understood", line)
	}
	if ino, err = strconv.ParseUint(string(first), 10, 64); err == nil {
		ctime, err = strconv.ParseInt(string(second), 10, 64)
	}
	return ino, ctime, path, err
}

// eachLine hands out the lines of a file of bounded size, and where they begin. A line is
// fn's only until it returns.
func eachLine(name string, fn func(line []byte, at int64) error) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close() //nolint:errcheck // only read from
	s := bufio.NewScanner(io.LimitReader(file, maxMetaBytes))
	s.Buffer(make([]byte, 64<<10), 8*snapshot.MaxPathBytes)
	at, next := int64(0), int64(0)
	s.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		n, token, err := bufio.ScanLines(data, atEOF)
		next += int64(n)
		return n, token, err
	})
	for s.Scan() {
		err := fn(s.Bytes(), at)
		at = next
		if errors.Is(err, snapshot.ErrNewerFormat) {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err != nil {
			return &snapshot.CorruptError{What: "file", Name: name, Why: err.Error()}
		}
	}
	return s.Err()
}
