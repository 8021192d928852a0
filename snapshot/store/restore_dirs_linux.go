package store

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// levels are directories by how deep they lie; the root of all is a level of its own.
func levels(dirs []snapshot.Entry) [][]*snapshot.Entry {
	var out [][]*snapshot.Entry
	for i := range dirs {
		e, depth := &dirs[i], 0
		if e.Path != "" {
			depth = 1 + strings.Count(e.Path, "/")
		}
		for len(out) <= depth {
			out = append(out, nil)
		}
		out[depth] = append(out[depth], e)
	}
	return out
}

// eachDir calls f for the directories of a level, on all cores, in runs of neighbours.
func eachDir(ctx context.Context, level []*snapshot.Entry, f func(e *snapshot.Entry) error) error {
	const run = 64
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for some := range slices.Chunk(level, run) {
		g.Go(func() error {
			for _, e := range some {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := f(e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// newDirMode is the mode with which a directory is made: the one that it is to have, if
// its owner may do everything there. Nobody else gets in before all is whole.
func newDirMode(e *snapshot.Entry) uint32 {
	if m := e.Mode & 0o777; m&0o700 == 0o700 {
		return m
	}
	return 0o700
}

// makeDirs makes the directories of the part, a level after the one above it.
func (r *restorer) makeDirs(ctx context.Context) error {
	old := len(r.held)
	for i := range r.w.ix.Changes {
		if e := r.entry(i); e.Type == snapshot.TypeDir {
			r.held = append(r.held, *e)
		}
	}
	for _, level := range levels(r.held[old:]) {
		err := eachDir(ctx, level, func(e *snapshot.Entry) error {
			if e.Path == "" {
				return nil
			}
			return wrap("mkdir", e.Path, r.in(e.Path, func(dir int, name string) error {
				return unix.Mkdirat(dir, name, newDirMode(e))
			}))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// leave gives those directories their look in which nothing is to come any more: of
// the others there are as many as the last path has. One through which its owner can't
// go has to wait for the end: a later name of a file in it may be made yet.
func (r *restorer) leave(ctx context.Context) error {
	n := len(r.w.ix.Changes)
	if n == 0 {
		return nil
	}
	last := r.entry(n - 1).Path
	var done, held []snapshot.Entry
	for _, e := range r.held {
		switch {
		case e.Path == last || isBelow(last, e.Path):
			held = append(held, e)
		case e.Mode&0o700 != 0o700:
			r.late = append(r.late, e)
		default:
			done = append(done, e)
		}
	}
	r.held = held
	return r.finish(ctx, done)
}

// finish gives directories their look, the deepest first.
func (r *restorer) finish(ctx context.Context, dirs []snapshot.Entry) error {
	for _, level := range slices.Backward(levels(dirs)) {
		if err := eachDir(ctx, level, r.finishDir); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) finishDir(e *snapshot.Entry) error {
	if e.Path == "" {
		return r.look(r.dirs.root, e, 0o700)
	}
	now := newDirMode(e) &^ r.umask
	if r.looks(e, now) {
		return wrap("set time", e.Path, r.in(e.Path, func(dir int, name string) error {
			ts := timesOf(e)
			return unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
		}))
	}
	fd, err := openBeneath(r.dirs.root, e.Path)
	if err != nil {
		return wrap("open", e.Path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // a directory
	return r.look(fd, e, now)
}

// looks reports whether all that look would do to an entry of mode now is to set its time.
func (r *restorer) looks(e *snapshot.Entry, now uint32) bool {
	return e.Mode&snapshot.ModeMask == now && len(e.Xattrs) == 0 && (!r.owners || e.UID == r.uid && e.GID == r.gid)
}

// dirCache keeps directories open while they are used, and for a while after.
type dirCache struct {
	root int
	mu   sync.Mutex // guards all below
	open map[string]*heldDir
	idle []*heldDir // the oldest first; some may be in use again, or closed
}

type heldDir struct {
	path string
	fd   int
	uses int
	idle bool // is in the list
}

// maxIdle bounds the directories that nobody uses just now.
const maxIdle = 256

func (c *dirCache) get(path string) (*heldDir, error) {
	if path == "" {
		return &heldDir{fd: c.root}, nil // never in the cache, and not closed
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.open[path]
	if d == nil {
		fd, err := openBeneath(c.root, path)
		if err != nil {
			return nil, err
		}
		d = &heldDir{path: path, fd: fd}
		c.open[path] = d
	}
	d.uses++
	return d, nil
}

func (c *dirCache) put(d *heldDir) {
	if d.path == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d.uses--
	if d.uses > 0 || d.idle {
		return
	}
	d.idle = true
	c.idle = append(c.idle, d)
	for len(c.idle) > maxIdle {
		old := c.idle[0]
		c.idle = c.idle[1:]
		old.idle = false
		if old.uses == 0 {
			delete(c.open, old.path)
			unix.Close(old.fd) //nolint:errcheck // a directory
		}
	}
}

func (c *dirCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.open {
		unix.Close(d.fd) //nolint:errcheck // a directory
	}
	c.open, c.idle = map[string]*heldDir{}, nil
}

// maxOpenPath is how much of a path is given to one openat2: PATH_MAX counts the
// final NUL, and a manifest may hold longer paths than that.
const maxOpenPath = 4000

// openBeneath opens a directory below root; the kernel refuses any link on the way
// and any way out.
func openBeneath(root int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	if path == "" {
		path = "."
	}
	fd := root
	for path != "" {
		part := path
		if len(part) > maxOpenPath {
			part = path[:strings.LastIndexByte(path[:maxOpenPath], '/')+1]
		}
		next, err := unix.Openat2(fd, part, &how)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if fd != root {
			unix.Close(fd) //nolint:errcheck // a directory
		}
		if err != nil {
			return -1, err
		}
		fd, path = next, path[len(part):]
	}
	return fd, nil
}
