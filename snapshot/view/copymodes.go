package view

import (
	"bufio"
	"context"
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

// openUp makes all of a tree readable to its owner, and writes down what it was.
// What belongs to somebody else can't be changed and is left for the scan to
// complain about.
func (d *Copy) openUp(ctx context.Context, id snapshot.ID, dir string) (err error) {
	log, err := d.modeLog(id, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.close()) }()
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if err := log.open("", fi); err != nil {
		return err
	}
	todo := []string{""}
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		list, err := os.ReadDir(filepath.Join(dir, at))
		if err != nil {
			return err
		}
		for _, e := range list {
			rel := filepath.Join(at, e.Name())
			fi, err := e.Info()
			if err != nil {
				return err
			}
			if err := log.open(rel, fi); err != nil {
				return err
			}
			if fi.IsDir() && len(rel) < snapshot.MaxPathBytes {
				todo = append(todo, rel)
			}
		}
	}
	return nil
}

// unixMode and fileMode translate the bits that a manifest keeps.
func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, f := range modeBits {
		if m&f != 0 {
			u |= bit
		}
	}
	return u
}

func fileMode(u uint32) fs.FileMode {
	m := fs.FileMode(u & 0o777)
	for bit, f := range modeBits {
		if u&bit != 0 {
			m |= f
		}
	}
	return m
}

var modeBits = map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky}

// modes are the real modes of what had to be made readable.
type modes map[string]uint32

func (l layout) readModes(id snapshot.ID) (modes, error) {
	m := modes{}
	err := eachLine(filepath.Join(l.dir(id), modesName), func(line []byte, _ int64) error {
		o, q, ok := strings.Cut(string(line), " ")
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
	default: // what it says is in the directory
	}
	return want, want != mode
}
