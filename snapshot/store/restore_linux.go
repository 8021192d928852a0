package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// deviceOf returns the device that a file lies on.
func deviceOf(fi fs.FileInfo) (uint64, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(st.Dev), true //nolint:unconvert // differs by architecture
}

// beginPartial makes the directory that a restore writes to, in place of one that
// a killed restore has left. It is locked until done is called.
func beginPartial(partial, dir string) (done func(), err error) {
	if fd, err := unix.Open(partial, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
		lerr := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if lerr == nil {
			lerr = dropPartial(partial)
		} else {
			lerr = fmt.Errorf("another restore to %s is under way in %s", dir, partial)
		}
		unix.Close(fd) //nolint:errcheck // a directory
		if lerr != nil {
			return nil, lerr
		}
	}
	if err := os.Mkdir(partial, 0o700); err != nil {
		return nil, err
	}
	fd, err := unix.Open(partial, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: partial, Err: err}
	}
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unix.Close(fd) //nolint:errcheck // a directory
		return nil, &fs.PathError{Op: "lock", Path: partial, Err: err}
	}
	return func() { unix.Close(fd) }, nil //nolint:errcheck // a directory
}

// restorer makes the entries of changes below a directory that nobody else writes
// to. Files come as their content does: a small one is made, filled, given its
// look and closed by one goroutine, with its directory open.
type restorer struct {
	w      *writing
	dirs   dirCache
	owners bool
	umask  uint32
	uid    uint32
	gid    uint32
	files  []outFile        // of the part
	held   []snapshot.Entry // directories in which there is more to come
	late   []snapshot.Entry // directories that can't be gone through once they look right
	open   atomic.Int32
	behind *durable.Writeback // of large files
	flush  *flusher           // of small ones
}

func (w *writing) to(ctx context.Context, dir string, parts inParts) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root) //nolint:errcheck // synced below
	r := &restorer{
		w: w, owners: w.s.o.Owners, umask: umask(),
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
		behind: durable.NewWriteback(), flush: newFlusher(root),
	}
	r.dirs.root, r.dirs.open = root, map[string]*heldDir{}
	err = r.run(ctx, dir, parts)
	r.behind.Stop()
	r.close()
	if serr := r.flush.stop(); err == nil && serr != nil {
		err = &fs.PathError{Op: "sync", Path: dir, Err: serr}
	}
	if err != nil {
		return err
	}
	if err := unix.Syncfs(root); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
	}
	return nil
}

// run does all but the sync.
func (r *restorer) run(ctx context.Context, dir string, parts inParts) error {
	if err := r.bare(dir); err != nil {
		return err
	}
	if err := parts(ctx, r.part); err != nil {
		return err
	}
	fail.Point("store.restore.filled")
	if err := r.finish(ctx, r.late); err != nil {
		return err
	}
	return r.finish(ctx, r.held)
}

// bare takes from the root what it would hand down to all that is new in it.
func (r *restorer) bare(dir string) error {
	// Of a directory with setgid the group would be inherited, and the bit.
	if err := unix.Fchown(r.dirs.root, int(r.uid), int(r.gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: dir, Err: err}
	}
	if err := unix.Fchmod(r.dirs.root, 0o700); err != nil {
		return &fs.PathError{Op: "chmod", Path: dir, Err: err}
	}
	for _, attr := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		err := unix.Fremovexattr(r.dirs.root, attr) // what the directory above gives to all that is new
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return &fs.PathError{Op: "remove attribute " + attr, Path: dir, Err: err}
		}
	}
	return nil
}

// part makes all of one part.
func (r *restorer) part(ctx context.Context) error {
	r.files = make([]outFile, len(r.w.ix.Changes))
	for _, step := range []func(context.Context) error{r.makeDirs, r.others, r.fill, r.links, r.leave} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) close() {
	for i := range r.files {
		if f := &r.files[i]; f.fd > 0 {
			unix.Close(int(f.fd)) //nolint:errcheck // only left open by an error
		}
	}
	r.dirs.close()
}

func (r *restorer) entry(i int) *snapshot.Entry { return &r.w.ix.Changes[i].Entry }

// each calls f for the entries that want picks, on all cores, in runs of
// neighbours.
func (r *restorer) each(ctx context.Context, want func(e *snapshot.Entry) bool, f func(i int, e *snapshot.Entry) error) error {
	const run = 512
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for at := 0; at < len(r.w.ix.Changes); at += run {
		end := min(at+run, len(r.w.ix.Changes))
		if !slices.ContainsFunc(r.w.ix.Changes[at:end], func(c snapshot.Change) bool { return want(&c.Entry) }) {
			continue
		}
		g.Go(func() error {
			for i := at; i < end; i++ {
				if e := r.entry(i); want(e) {
					if err := ctx.Err(); err != nil {
						return context.Cause(ctx)
					}
					if err := f(i, e); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// others makes what has no content: empty files, holes, symlinks, fifos, sockets.
func (r *restorer) others(ctx context.Context) error {
	want := func(e *snapshot.Entry) bool {
		if e.Type == snapshot.TypeFile {
			return len(e.Chunks) == 0 && e.FirstLink()
		}
		return e.Type != snapshot.TypeDir
	}
	return r.each(ctx, want, func(i int, e *snapshot.Entry) error {
		switch e.Type {
		case snapshot.TypeFile:
			return r.done(i)
		case snapshot.TypeSymlink:
			return r.symlink(e)
		case snapshot.TypeFifo, snapshot.TypeSocket:
			return r.node(e)
		default:
			return &snapshot.UnsupportedError{Path: e.Path, What: e.Type.String() + " entry"}
		}
	})
}

func (r *restorer) symlink(e *snapshot.Entry) error {
	return wrap("symlink", e.Path, r.in(e.Path, func(dir int, name string) error {
		if err := unix.Symlinkat(e.Target, dir, name); err != nil {
			return err
		}
		if r.owners && (e.UID != r.uid || e.GID != r.gid) {
			if err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		ts := timesOf(e)
		return unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// node makes a fifo or a socket.
func (r *restorer) node(e *snapshot.Entry) error {
	mode := uint32(unix.S_IFIFO)
	if e.Type == snapshot.TypeSocket {
		mode = unix.S_IFSOCK
	}
	return wrap("make "+e.Type.String(), e.Path, r.in(e.Path, func(dir int, name string) error {
		if err := unix.Mknodat(dir, name, mode|0o600, 0); err != nil {
			return err
		}
		if r.owners {
			if err := unix.Fchownat(dir, name, int(e.UID), int(e.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
		}
		if err := view.SetNodeXattrs(dir, name, e); err != nil {
			return err
		}
		// Not a link, and nobody else writes here: it can't have become one.
		if err := unix.Fchmodat(dir, name, e.Mode&snapshot.ModeMask, 0); err != nil {
			return err
		}
		ts := timesOf(e)
		return unix.UtimesNanoAt(dir, name, ts[:], unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// links gives files their further names.
func (r *restorer) links(ctx context.Context) error {
	want := func(e *snapshot.Entry) bool { return e.Type == snapshot.TypeFile && !e.FirstLink() }
	return r.each(ctx, want, func(_ int, e *snapshot.Entry) error {
		return wrap("link", e.Path, r.in(e.Link, func(from int, old string) error {
			return r.in(e.Path, func(dir int, name string) error { return unix.Linkat(from, old, dir, name, 0) })
		}))
	})
}

// in calls f with the directory of a path and the name there.
func (r *restorer) in(path string, f func(dir int, name string) error) error {
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	if name == "" || name == "." || name == ".." || strings.IndexByte(path, 0) >= 0 {
		return fmt.Errorf("%q is no name", name)
	}
	d, err := r.dirs.get(dir)
	if err != nil {
		return err
	}
	defer r.dirs.put(d)
	return f(d.fd, name)
}

func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: path, Err: snapshot.Taken(err)}
}

// umask returns what is taken from the modes of new files. There is no call that
// only asks.
func umask() uint32 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0o7777
	}
	for line := range strings.Lines(string(b)) {
		var m uint32
		if n, _ := fmt.Sscanf(line, "Umask:\t%o", &m); n == 1 {
			return m
		}
	}
	return 0o7777 // unknown: every mode is set
}
