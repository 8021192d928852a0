//go:build !linux

package tree

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// treeRoot is a directory whose tree is read by the portable calls of package os:
// plain entries, no extended attributes.
type treeRoot struct{ abs string }

func openTree(root string) (*treeRoot, error) {
	abs, err := absolute(root)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(abs)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: root, Err: fmt.Errorf("not a directory")}
	}
	return &treeRoot{abs: abs}, nil
}

func (t *treeRoot) close() {}

// skipAttributes has nothing to do: no attribute is read.
func (t *treeRoot) skipAttributes(func(*snapshot.UnsupportedError)) {}

// lookOnly has nothing to leave out.
func (t *treeRoot) lookOnly() {}

func (t *treeRoot) lstat(rel string, o ScanOptions) (Item, error) {
	var it Item
	if rel == "" {
		err := describe(&it, "", "", t.abs, o)
		return it, err
	}
	if !filepath.IsLocal(filepath.FromSlash(rel)) {
		return it, fmt.Errorf("lstat %q: not a plain relative path", rel)
	}
	parent, name := "", rel
	for i := len(rel) - 1; i >= 0; i-- {
		if rel[i] == '/' {
			parent, name = rel[:i], rel[i+1:]
			break
		}
	}
	sources, paths := t.names(parent, []string{name})
	err := describe(&it, name, paths[0], sources[0], o)
	return it, err
}

func (t *treeRoot) list(rel string, o ScanOptions, items []Item) ([]Item, error) {
	found, err := os.ReadDir(filepath.Join(t.abs, filepath.FromSlash(rel))) // sorted
	if err != nil {
		return items, err
	}
	names := make([]string, len(found))
	for i, f := range found {
		names[i] = f.Name()
	}
	names = o.Exclude.names(rel, names)
	sources, paths := t.names(rel, names)
	for i, name := range names {
		items = append(items, Item{})
		if err := describe(&items[len(items)-1], name, paths[i], sources[i], o); err != nil {
			items = items[:len(items)-1]
			if o.skipped(err) {
				continue
			}
			return items, err
		}
		if it := &items[len(items)-1]; it.Entry.Type == snapshot.TypeDir && o.Exclude.dir(it.Entry.Path) {
			items = items[:len(items)-1]
		}
	}
	return items, nil
}

// lookBuffers are not needed.
type lookBuffers struct{}

// look tells v what is in directory v.rel.
func (t *treeRoot) look(v *looking) {
	if _, err := t.lstat(v.rel, ScanOptions{}); err != nil {
		v.failed(v.rel, err)
		return
	}
	found, err := os.ReadDir(filepath.Join(t.abs, filepath.FromSlash(v.rel)))
	if err != nil {
		v.failed(v.rel, err)
		return
	}
	for _, f := range found {
		if f.IsDir() {
			v.sub(f.Name())
			continue
		}
		if it, err := t.lstat(v.path(f.Name()), ScanOptions{}); err != nil {
			v.failed(v.path(f.Name()), err)
		} else {
			v.file(it.Entry.Size, it.Inode)
		}
	}
}

func describe(it *Item, name, path, source string, o ScanOptions) error {
	if err := fits(path, name); err != nil {
		return err
	}
	source = filepath.FromSlash(source)
	lstat := os.Lstat
	if path == "" {
		lstat = os.Stat // the root itself may be reached by a symlink
	}
	fi, err := lstat(source)
	if err != nil {
		return fmt.Errorf("%w: %w", errGone, err)
	}
	e := &it.Entry
	e.Path, e.Mode, e.MTime = path, mode(fi.Mode()), fi.ModTime().UnixNano()
	if at := fi.ModTime(); at.Before(time.Unix(0, minTime)) || at.After(time.Unix(0, maxTime)) {
		return oddTime(path)
	}
	system(it, fi, o)
	switch fi.Mode().Type() {
	case fs.ModeDir:
		e.Type = snapshot.TypeDir
	case 0:
		e.Type, e.Size, e.Source = snapshot.TypeFile, fi.Size(), source
	case fs.ModeSymlink:
		e.Type, e.Mode = snapshot.TypeSymlink, 0o777
		if e.Target, err = os.Readlink(source); err != nil {
			return err
		}
	case fs.ModeNamedPipe:
		e.Type = snapshot.TypeFifo
	case fs.ModeSocket:
		e.Type = snapshot.TypeSocket
	default:
		return &snapshot.UnsupportedError{Path: path, What: fi.Mode().Type().String() + " file"}
	}
	return nil
}

// mode is a manifest's mode of what package os says.
func mode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for _, b := range []struct {
		os   fs.FileMode
		unix uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if m&b.os != 0 {
			out |= b.unix
		}
	}
	return out
}
