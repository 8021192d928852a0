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
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
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
	behind *durable.Writeback
}

// outFile is a file on its way.
type outFile struct {
	mu   sync.Mutex // guards all, across the writing
	made bool
	fd   int32 // 0: not open
	end  int64 // of what was written
}

// maxHeld bounds the files that are open without being written to just now.
const maxHeld = 512

func (w *writing) to(ctx context.Context, dir string, parts inParts) error {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root) //nolint:errcheck // synced below
	r := &restorer{
		w: w, owners: w.s.o.Owners, umask: umask(),
		uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()),
		behind: durable.NewWriteback(),
	}
	defer r.behind.Stop()
	r.dirs.root, r.dirs.open = root, map[string]*heldDir{}
	defer r.close()
	// Of a directory with setgid the group would be inherited, and the bit.
	if err := unix.Fchown(root, int(r.uid), int(r.gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: dir, Err: err}
	}
	if err := unix.Fchmod(root, 0o700); err != nil {
		return &fs.PathError{Op: "chmod", Path: dir, Err: err}
	}
	for _, attr := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		err := unix.Fremovexattr(root, attr) // what the directory above gives to all that is new
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return &fs.PathError{Op: "remove attribute " + attr, Path: dir, Err: err}
		}
	}
	if err := parts(ctx, r.part); err != nil {
		return err
	}
	fail.Point("store.restore.filled")
	r.dirs.close()
	if err := r.finish(ctx, r.late); err != nil {
		return err
	}
	if err := r.finish(ctx, r.held); err != nil {
		return err
	}
	if err := unix.Syncfs(root); err != nil {
		return &fs.PathError{Op: "sync", Path: dir, Err: err}
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

// makeDirs makes all directories, a parent before what is in it.
func (r *restorer) makeDirs(ctx context.Context) error {
	for i := range r.w.ix.Changes {
		e := r.entry(i)
		if e.Type != snapshot.TypeDir {
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if r.held = append(r.held, *e); e.Path == "" {
			continue
		}
		err := r.in(e.Path, func(dir int, name string) error { return unix.Mkdirat(dir, name, 0o700) })
		if err != nil {
			return wrap("mkdir", e.Path, err)
		}
	}
	return nil
}

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
			return len(e.Chunks) == 0 && first(e)
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

// first reports whether e is the name under which a file is made.
func first(e *snapshot.Entry) bool { return e.Link == "" || e.Link == e.Path }

// fill writes all content.
func (r *restorer) fill(ctx context.Context) error {
	return r.w.extract(ctx, r.write, r.done)
}

// write is called for any file, by any goroutine.
func (r *restorer) write(i int, off int64, p []byte) error {
	f, e := &r.files[i], r.entry(i)
	f.mu.Lock()
	defer f.mu.Unlock()
	if off < 0 || off > e.Size || int64(len(p)) > e.Size-off {
		return fmt.Errorf("bytes %d to %d of %d", off, off+int64(len(p)), e.Size)
	}
	if err := r.openLocked(f, e); err != nil {
		return err
	}
	for len(p) > 0 {
		n, err := unix.Pwrite(int(f.fd), p, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return wrap("write", e.Path, err)
		}
		p, off = p[n:], off+int64(n)
		if len(e.Chunks) > 1 { // a small one is soon written with its neighbours
			r.behind.Wrote(uintptr(f.fd), n)
		}
	}
	f.end = max(f.end, off)
	if len(e.Chunks) > 1 && r.open.Load() > maxHeld {
		return r.closeLocked(f, e)
	}
	return nil
}

// openLocked makes the file, or opens it again.
func (r *restorer) openLocked(f *outFile, e *snapshot.Entry) error {
	if f.fd > 0 {
		return nil
	}
	flags, mode := unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(0o600)
	if !f.made {
		flags |= unix.O_CREAT | unix.O_EXCL
		if len(e.Chunks) <= 1 { // else it has to be opened again
			mode = e.Mode & 0o777
		}
	}
	var fd int
	err := r.in(e.Path, func(dir int, name string) (err error) {
		fd, err = unix.Openat(dir, name, flags, mode)
		return err
	})
	if err != nil {
		return wrap("create", e.Path, err)
	}
	f.fd, f.made = int32(fd), true
	r.open.Add(1)
	return nil
}

func (r *restorer) closeLocked(f *outFile, e *snapshot.Entry) error {
	err := unix.Close(int(f.fd))
	f.fd = 0
	r.open.Add(-1)
	return wrap("close", e.Path, err)
}

// done gives a file its length and its look. All that it has was written.
func (r *restorer) done(i int) error {
	f, e := &r.files[i], r.entry(i)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := r.openLocked(f, e); err != nil {
		return err
	}
	if f.end < e.Size {
		if err := unix.Ftruncate(int(f.fd), e.Size); err != nil {
			return wrap("truncate", e.Path, err)
		}
	}
	made := uint32(0o600)
	if len(e.Chunks) <= 1 {
		made = e.Mode & 0o777
	}
	if err := r.look(int(f.fd), e, made&^r.umask); err != nil {
		return err
	}
	return r.closeLocked(f, e)
}

// look gives an open file or directory whose mode is now its owner, attributes,
// mode and time, in the order in which none undoes another.
func (r *restorer) look(fd int, e *snapshot.Entry, now uint32) error {
	if r.owners && (e.UID != r.uid || e.GID != r.gid) {
		if err := unix.Fchown(fd, int(e.UID), int(e.GID)); err != nil {
			return wrap("chown", e.Path, err)
		}
	}
	for _, x := range e.Xattrs {
		if err := settable(e, x.Name); err != nil {
			return err
		}
		if err := unix.Fsetxattr(fd, x.Name, x.Value, 0); err != nil {
			return wrap("set attribute "+x.Name, e.Path, err)
		}
	}
	if mode := e.Mode & snapshot.ModeMask; mode != now || len(e.Xattrs) > 0 {
		if err := unix.Fchmod(fd, mode); err != nil {
			return wrap("chmod", e.Path, err)
		}
	}
	ts := timesOf(e)
	return wrap("set time", e.Path, unix.UtimesNanoAt(fd, "", ts[:], unix.AT_EMPTY_PATH))
}

func timesOf(e *snapshot.Entry) [2]unix.Timespec {
	t := unix.NsecToTimespec(e.MTime)
	return [2]unix.Timespec{t, t}
}

// settable refuses what content may not bring with it (S11).
func settable(e *snapshot.Entry, attr string) error {
	if strings.HasPrefix(attr, "user.") || attr == "system.posix_acl_access" || attr == "system.posix_acl_default" {
		return nil
	}
	return &snapshot.UnsupportedError{Path: e.Path, What: "extended attribute " + attr}
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
		if err := nodeXattrs(dir, name, e); err != nil {
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

// nodeXattrs sets attributes (ACLs) of what can't be opened.
func nodeXattrs(dir int, name string, e *snapshot.Entry) error {
	if len(e.Xattrs) == 0 {
		return nil
	}
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // a path only
	for _, x := range e.Xattrs {
		if err := settable(e, x.Name); err != nil {
			return err
		}
		if err := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), x.Name, x.Value, 0); err != nil {
			return err
		}
	}
	return nil
}

// links gives files their further names.
func (r *restorer) links(ctx context.Context) error {
	want := func(e *snapshot.Entry) bool { return e.Type == snapshot.TypeFile && !first(e) }
	return r.each(ctx, want, func(_ int, e *snapshot.Entry) error {
		return wrap("link", e.Path, r.in(e.Link, func(from int, old string) error {
			return r.in(e.Path, func(dir int, name string) error { return unix.Linkat(from, old, dir, name, 0) })
		}))
	})
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
	for i := len(dirs) - 1; i >= 0; i-- {
		e := &dirs[i]
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		fd, err := openBeneath(r.dirs.root, e.Path)
		if err != nil {
			return wrap("open", e.Path, err)
		}
		err = r.look(fd, e, 0o700&^r.umask)
		unix.Close(fd) //nolint:errcheck // a directory
		if err != nil {
			return err
		}
	}
	return nil
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
	return &fs.PathError{Op: op, Path: path, Err: err}
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
