package view

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// referrer decides which files of other layers a mount can reach by reference,
// and how. There are two ways, both by an absolute redirect:
//
//   - /u<id>/path leads into views/<id> as a data directory;
//   - /path leads to what the layers below the stub show there. It is the way for
//     files of those layers themselves, whose directories can't be data directories
//     of the same mount: the kernel says ELOOP.
type referrer struct {
	d      *Overlay
	lowers []string             // absolute; an image's mount among them
	data   []string             // relative to the root
	known  map[snapshot.ID]bool // may views/<id> be a data directory?
	dirs   map[string]dirState  // of absolute paths in lowers
}

func (d *Overlay) newReferrer(lowers, data []string) *referrer {
	r := &referrer{d: d, lowers: lowers, data: data, known: map[snapshot.ID]bool{}, dirs: map[string]dirState{}}
	for _, l := range lowers {
		// A data directory must not contain a layer of the same mount: ELOOP.
		if rel, err := filepath.Rel(d.root, l); err == nil {
			if id, err := owner(rel); err == nil {
				r.known[id] = false
			}
		}
	}
	for _, l := range data {
		if id, err := dataOwner(l); err == nil {
			r.known[id] = true
		}
	}
	return r
}

// refer returns the value of a redirect to the file at source, and whether there
// can be one.
func (r *referrer) refer(source string) (string, bool) {
	rel, ok := strings.CutPrefix(source, filepath.Join(r.d.root, viewsDir)+"/")
	if !ok || filepath.Clean(source) != source {
		return "", false
	}
	name, in, _ := strings.Cut(rel, "/")
	id, err := snapshot.ParseID(name)
	if err != nil {
		return "", false
	}
	ok, seen := r.known[id]
	if !seen {
		ok = r.admit(id, in)
		r.known[id] = ok
		if ok {
			r.data = append(r.data, path.Join(viewsDir, name))
		}
	}
	if ok {
		return "/" + in, true
	}
	_, at, _ := strings.Cut(in, "/")
	return "/" + at, at != "" && r.shows(at, source)
}

// dirState says what one layer makes of a directory.
type dirState uint8

const (
	dirUnknown dirState = iota
	dirAbsent           // the layers below decide
	dirMerged           // it is there, and those of the layers below with it
	dirBarrier          // it is there, and hides those of the layers below
	dirHidden           // it is not there, and the layers below are hidden
	dirOdd              // renamed, or no directory: too much to follow here
)

// shows reports whether the stack below the stub shows the file source at p. It
// says no where it would take more than a look at plain directories to know.
func (r *referrer) shows(p, source string) bool {
	dir := path.Dir(p)
	if dir == "." {
		dir = ""
	}
	for _, layer := range r.lowers {
		state := r.dir(layer, dir)
		if state == dirAbsent {
			continue
		}
		if state == dirHidden || state == dirOdd {
			return false
		}
		file := filepath.Join(layer, p)
		var st unix.Stat_t
		if err := unix.Lstat(file, &st); errors.Is(err, unix.ENOENT) && state == dirMerged {
			continue
		} else if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
			return false
		}
		if !hasXattr(file, metaXattr) {
			return file == source
		}
		// A stub: its content is further down, here or elsewhere.
		if state != dirMerged || hasXattr(file, redirXattr) {
			return false
		}
	}
	return false
}

// dir looks at one directory of one layer, once.
func (r *referrer) dir(layer, dir string) dirState {
	if dir == "" {
		return dirMerged
	}
	at := filepath.Join(layer, dir)
	if s := r.dirs[at]; s != dirUnknown {
		return s
	}
	up := path.Dir(dir)
	if up == "." {
		up = ""
	}
	s := r.dir(layer, up)
	if s == dirMerged || s == dirBarrier {
		s = lookAt(at, s)
	}
	r.dirs[at] = s
	return s
}

// lookAt says what the directory at is, whose parent is merged or a barrier.
func lookAt(at string, parent dirState) dirState {
	var st unix.Stat_t
	switch err := unix.Lstat(at, &st); {
	case errors.Is(err, unix.ENOENT) && parent == dirMerged:
		return dirAbsent
	case errors.Is(err, unix.ENOENT):
		return dirHidden
	case err != nil, st.Mode&unix.S_IFMT != unix.S_IFDIR, hasXattr(at, redirXattr):
		return dirOdd
	case parent == dirBarrier, hasXattr(at, opaqueXattr):
		return dirBarrier
	}
	return dirMerged
}

func hasXattr(p, name string) bool {
	_, err := unix.Lgetxattr(p, name, nil)
	return !errors.Is(err, unix.ENODATA)
}

// admit decides whether views/<id> can become a data directory. The kernel looks
// for /u<id>/... in the regular layers first, so none of them may have that name;
// no job knows it by chance, but one could have read it in /proc/mounts.
func (r *referrer) admit(id snapshot.ID, in string) bool {
	if r.d.o.NoDataDirs {
		return false
	}
	first, _, _ := strings.Cut(in, "/")
	if len(first) < 2 || first[1:] != string(id) {
		return false
	}
	if len(r.lowers)+len(r.data)+4 > maxStack {
		return false
	}
	for _, l := range r.lowers {
		if _, err := os.Lstat(filepath.Join(l, first)); !errors.Is(err, os.ErrNotExist) {
			return false
		}
	}
	return true
}
