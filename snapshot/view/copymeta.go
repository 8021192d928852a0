package view

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
		b := bufio.NewWriterSize(w, 1<<16)
		fmt.Fprintf(b, "%s\ntarget %q %d\n", copyHeader, m.target, m.root) //nolint:errcheck // Flush tells
		for ino, s := range m.stamps {
			fmt.Fprintf(b, "s %d %d %q\n", ino, s.ctime, s.path) //nolint:errcheck // Flush tells
		}
		return b.Flush()
	})
}

// readMeta returns fs.ErrNotExist for a layer without one.
func (l layout) readMeta(id snapshot.ID) (*copyMeta, error) {
	name := filepath.Join(l.dir(id), metaName)
	m := &copyMeta{stamps: map[uint64]stamp{}}
	n := 0
	err := eachLine(name, func(line string) error {
		n++
		f := strings.SplitN(line, " ", 4)
		var err error
		switch {
		case n == 1 && line == copyHeader:
		case n == 1:
			err = fmt.Errorf("starts with %.40q: %w", line, snapshot.ErrNewerFormat)
		case f[0] == "target":
			i := strings.LastIndexByte(line, ' ')
			if m.target, err = strconv.Unquote(line[len("target "):max(i, len("target "))]); err == nil {
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
	if n == 0 {
		return nil, &snapshot.CorruptError{What: "file", Name: name, Why: "empty"}
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

// modes are the real modes of what had to be made readable.
type modes map[string]uint32

func (l layout) readModes(id snapshot.ID) (modes, error) {
	m := modes{}
	err := eachLine(filepath.Join(l.dir(id), modesName), func(line string) error {
		o, q, ok := strings.Cut(line, " ")
		if !ok {
			return fmt.Errorf("line %.80q is not understood", line)
		}
		mode, err := strconv.ParseUint(o, 8, 16)
		if err != nil {
			return err
		}
		p, err := strconv.Unquote(q)
		if err != nil {
			return err
		}
		if _, seen := m[p]; !seen { // the first is what the job left
			m[p] = uint32(mode) & snapshot.ModeMask
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return m, nil
}

// real returns the mode that the job gave to path.
func (m modes) real(path string, onDisk uint32) uint32 {
	if r, ok := m[path]; ok {
		return r
	}
	return onDisk
}

// writeModes writes all of a layer's modes at once.
func (l layout) writeModes(id snapshot.ID, m modes) error {
	if len(m) == 0 {
		return nil
	}
	return durable.WriteFile(filepath.Join(l.dir(id), modesName), 0o600, func(w io.Writer) error {
		b := bufio.NewWriter(w)
		for p, mode := range m {
			fmt.Fprintf(b, "%o %q\n", mode, p) //nolint:errcheck // Flush tells
		}
		return b.Flush()
	})
}

// modeLog makes a tree readable and appends to its modes. Each line is written
// before the mode is changed, so that a Seal that was cut short can be done again.
type modeLog struct {
	dir  string // the tree
	name string
	file *os.File
	// seen has the real mode of each inode that was changed: its further names show
	// the new one.
	seen map[uint64]uint32
}

func (l layout) modeLog(id snapshot.ID, dir string) (*modeLog, error) {
	old, err := l.readModes(id)
	if err != nil {
		return nil, err
	}
	m := &modeLog{dir: dir, name: filepath.Join(l.dir(id), modesName), seen: map[uint64]uint32{}}
	for p, mode := range old {
		if fi, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(p))); err == nil {
			m.seen[inode(fi)] = mode
		}
	}
	delete(m.seen, 0)
	return m, nil
}

// open makes one entry readable.
func (m *modeLog) open(rel string, fi fs.FileInfo) error {
	t := snapshot.Type(0)
	switch {
	case fi.IsDir():
		t = snapshot.TypeDir
	case fi.Mode().IsRegular():
		t = snapshot.TypeFile
	}
	mode := unixMode(fi.Mode())
	ino := inode(fi)
	if real, ok := m.seen[ino]; ok && ino != 0 {
		return m.add(filepath.ToSlash(rel), real) // the first line of a path counts
	}
	want, differs := unreadable(t, mode)
	if !differs {
		return nil
	}
	if err := m.add(filepath.ToSlash(rel), mode); err != nil {
		return err
	}
	m.seen[ino] = mode
	return os.Chmod(filepath.Join(m.dir, rel), fileMode(want))
}

func (m *modeLog) add(path string, mode uint32) error {
	if m.file == nil {
		f, err := os.OpenFile(m.name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		m.file = f
	}
	_, err := fmt.Fprintf(m.file, "%o %q\n", mode, path)
	return err
}

func (m *modeLog) close() error {
	if m.file == nil {
		return nil
	}
	return m.file.Close()
}

// unreadable returns the mode that e must have on disk so that its owner can
// read it, enter it, and take it away.
func unreadable(t snapshot.Type, mode uint32) (uint32, bool) {
	want := mode
	switch t {
	case snapshot.TypeDir:
		want |= 0o700
	case snapshot.TypeFile:
		want |= 0o400
	}
	return want, want != mode
}
