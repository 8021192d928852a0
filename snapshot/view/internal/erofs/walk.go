package erofs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// ErrOrder says that a Tree is no tree in manifest order.
var ErrOrder = errors.New("not a tree in manifest order")

// frame is a directory whose entries are being walked.
type frame struct {
	path string
	last string // name of the last entry seen in it

	// While places are being found:
	base baseDir

	// While the image is written:
	nid     uint32
	parent  uint32
	dots    int // of "." and "..", how many are in data
	subdirs uint32
	data    dirData
}

// stack is the path of directories to the current entry. Frames are used again,
// with their buffers.
type stack struct {
	frames []frame
	depth  int
}

func (s *stack) top() *frame { return &s.frames[s.depth-1] }

func (s *stack) push(path string) *frame {
	if s.depth == len(s.frames) {
		s.frames = append(s.frames, frame{})
	}
	s.depth++
	f := s.top()
	f.path, f.last = path, ""
	return f
}

// inside reports whether path lies beneath the directory f.
func (f *frame) inside(path string) bool {
	if f.path == "" {
		return path != ""
	}
	return len(path) > len(f.path) && path[len(f.path)] == '/' && path[:len(f.path)] == f.path
}

// enter goes from the last entry to e: it pops directories that ended, calling
// leave for each, checks that e stands where it may and returns its name there.
// The caller pushes e if it is a directory. The root has no name.
func (s *stack) enter(e *snapshot.Entry, leave func() error) (name string, err error) {
	if e.Path == "" {
		if s.depth > 0 || len(s.frames) > 0 || e.Type != snapshot.TypeDir || e.Link != "" {
			return "", fmt.Errorf("%w: the root comes first, once, and is a directory", ErrOrder)
		}
		return "", nil
	}
	if len(e.Path) > snapshot.MaxPathBytes {
		return "", fmt.Errorf("path of %d bytes", len(e.Path))
	}
	if s.depth == 0 {
		return "", fmt.Errorf("%w: the root comes first", ErrOrder)
	}
	for !s.top().inside(e.Path) {
		if err := leave(); err != nil {
			return "", err
		}
		s.depth-- // never the root's: every path is inside that
	}
	f := s.top()
	name = e.Path[len(f.path):]
	if f.path != "" {
		name = name[1:]
	}
	if strings.IndexByte(name, '/') >= 0 {
		return "", fmt.Errorf("%w: its directory is missing or not before it", ErrOrder)
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	if name <= f.last {
		return "", fmt.Errorf("%w: behind %q", ErrOrder, f.last)
	}
	f.last = name
	return name, nil
}
