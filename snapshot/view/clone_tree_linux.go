package view

import (
	"context"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// maxCloners bounds the goroutines of one clone: file systems that can share
// extents take creates in a few groups at once, and gain nothing beyond.
const maxCloners = 8

// cloner copies a tree that nobody changes into an empty one, a directory at a
// time, several at once. Every name is reached from the descriptor of its
// directory. Directories get their look later, from the builder.
type cloner struct {
	b       *builder
	ctx     context.Context
	from    int // descriptor of the source's root
	mode    func(string, uint32) uint32
	refused cloneRefused

	mu      sync.Mutex // guards what follows, and the builder's maps
	more    *sync.Cond // todo or busy has changed
	todo    []string   // directories that exist in the copy and are still empty there
	busy    int        // directories being copied
	err     error      // the first
	links   map[inodeKey]string
	pending []linkPair // further names, made when all first ones are there
}

// linkPair is a further name of a file and the first.
type linkPair struct {
	first string
	entry snapshot.Entry
}

// clone copies the tree at from, but for the look of its directories.
func (b *builder) clone(ctx context.Context, from string, mode func(string, uint32) uint32) error {
	fd, err := unix.Open(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: from, Err: err}
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	c := &cloner{b: b, ctx: ctx, from: fd, mode: mode, todo: []string{""}, links: map[inodeKey]string{}}
	c.more = sync.NewCond(&c.mu)
	var wg sync.WaitGroup
	for range min(max(2, runtime.GOMAXPROCS(0)), maxCloners) {
		wg.Go(c.work)
	}
	wg.Wait()
	if c.err != nil {
		return c.err
	}
	return c.link()
}

// work copies directories until none is left or one failed.
func (c *cloner) work() {
	for {
		c.mu.Lock()
		for len(c.todo) == 0 && c.busy > 0 && c.err == nil {
			c.more.Wait()
		}
		if len(c.todo) == 0 || c.err != nil {
			c.mu.Unlock()
			c.more.Broadcast()
			return
		}
		rel := c.todo[len(c.todo)-1]
		c.todo = c.todo[:len(c.todo)-1]
		c.busy++
		c.mu.Unlock()

		d := dirClone{c: c, rel: rel}
		err := d.run()

		c.mu.Lock()
		c.busy--
		if err != nil && c.err == nil {
			c.err = err
		}
		d.report()
		c.mu.Unlock()
		c.more.Broadcast()
	}
}

// dirClone is the copying of one directory by one goroutine.
type dirClone struct {
	c        *cloner
	rel      string
	src, dst int
	look     snapshot.Entry
	subdirs  []string
	stamps   []stampOf
}

type stampOf struct {
	ino uint64
	stamp
}

// report hands over what others must know. The cloner is locked.
func (d *dirClone) report() {
	d.c.b.dirs[d.rel] = d.look
	d.c.todo = append(d.c.todo, d.subdirs...)
	if d.c.b.stamps != nil {
		for _, s := range d.stamps {
			d.c.b.stamps.add(s.ino, s.stamp)
		}
	}
}

func (d *dirClone) run() (err error) {
	if d.src, err = openBelow(d.c.from, d.rel); err != nil {
		return d.wrap("open", "", err)
	}
	defer unix.Close(d.src) //nolint:errcheck // only read from
	if d.dst, err = openBelow(d.c.b.p.fd, d.rel); err != nil {
		return d.wrap("open", "", err)
	}
	defer unix.Close(d.dst) //nolint:errcheck // a directory
	var st unix.Stat_t
	if err := unix.Fstat(d.src, &st); err != nil {
		return d.wrap("stat", "", err)
	}
	d.look = d.c.entry(d.rel, snapshot.TypeDir, &st)
	if d.look.Xattrs, err = copyableXattrs(d.src, d.rel); err != nil {
		return err
	}
	names, err := namesOf(d.src)
	if err != nil {
		return d.wrap("read directory", "", err)
	}
	for i, n := range names {
		if i%64 == 0 && d.c.ctx.Err() != nil {
			return d.c.ctx.Err()
		}
		if err := d.one(n); err != nil {
			return err
		}
	}
	return nil
}

func openBelow(root int, rel string) (int, error) {
	if rel == "" {
		rel = "."
	}
	return openDirBeneath(root, rel)
}

func (d *dirClone) wrap(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path.Join(d.rel, name), Err: err}
}

// entry is what stat tells of a name, as it is to be in the copy.
func (c *cloner) entry(rel string, t snapshot.Type, st *unix.Stat_t) snapshot.Entry {
	e := snapshot.Entry{Path: rel, Type: t, Mode: st.Mode & snapshot.ModeMask, MTime: st.Mtim.Nano()}
	if c.mode != nil {
		e.Mode = c.mode(rel, e.Mode)
	}
	if c.b.p.owners {
		e.UID, e.GID = st.Uid, st.Gid
	}
	return e
}

// one copies one name.
func (d *dirClone) one(name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(d.src, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
		return d.wrap("stat", name, err)
	}
	rel := path.Join(d.rel, name)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		d.subdirs = append(d.subdirs, rel)
		return d.wrap("mkdir", name, unix.Mkdirat(d.dst, name, 0o700))
	case unix.S_IFREG:
		e := d.c.entry(rel, snapshot.TypeFile, &st)
		e.Size = st.Size
		if st.Nlink > 1 && d.c.further(&e, inodeKey{st.Dev, st.Ino}) {
			return nil
		}
		return d.file(name, &e)
	case unix.S_IFLNK:
		target, err := linkTarget(d.src, name)
		if err != nil {
			return d.wrap("read link", name, err)
		}
		e := d.c.entry(rel, snapshot.TypeSymlink, &st)
		if err := unix.Symlinkat(target, d.dst, name); err != nil {
			return d.wrap("symlink", name, err)
		}
		return d.c.b.p.metaAt(d.dst, name, &e)
	case unix.S_IFIFO, unix.S_IFSOCK:
		e := d.c.entry(rel, snapshot.TypeFifo, &st)
		if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			e.Type = snapshot.TypeSocket
		}
		var err error
		if e.Xattrs, err = nodeXattrs(d.src, name); err != nil {
			return d.wrap("get attributes", name, err)
		}
		if err := mknodAt(d.dst, name, e.Type); err != nil {
			return d.wrap("mknod", name, err)
		}
		return d.c.b.p.metaAt(d.dst, name, &e)
	}
	return &snapshot.UnsupportedError{Path: rel, What: "device in a tree that is no layer"}
}

// further notes a further name of a file whose first one somebody has or makes.
func (c *cloner) further(e *snapshot.Entry, key inodeKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if first, ok := c.links[key]; ok {
		c.pending = append(c.pending, linkPair{first, *e})
		return true
	}
	c.links[key] = e.Path
	return false
}

// file copies a regular file.
func (d *dirClone) file(name string, e *snapshot.Entry) error {
	src, err := unix.Openat(d.src, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.wrap("open", name, err)
	}
	defer unix.Close(src) //nolint:errcheck // only read from
	if e.Xattrs, err = copyableXattrs(src, e.Path); err != nil {
		return err
	}
	d.c.mu.Lock()
	on := d.c.b.look(e)
	d.c.mu.Unlock()
	// Made with its mode at once where the umask lets it: each change of a look is
	// a transaction of its own. The tree is closed to others meanwhile.
	dst, err := unix.Openat(d.dst, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, on.Mode&0o777|0o600)
	if err != nil {
		return d.wrap("create", name, err)
	}
	defer unix.Close(dst) //nolint:errcheck // synced as a whole, where errors are seen
	if err := d.content(dst, src, e); err != nil {
		return err
	}
	if err := lookFD(dst, on, d.c.b.p.owners); err != nil {
		return d.wrap("set look", name, err)
	}
	if d.c.b.stamps == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(dst, &st); err != nil {
		return d.wrap("stat", name, err)
	}
	d.stamps = append(d.stamps, stampOf{st.Ino, stamp{st.Ctim.Nano(), e.Path}})
	return nil
}

// content fills dst, by sharing extents if that works here.
func (d *dirClone) content(dst, src int, e *snapshot.Entry) error {
	if e.Size == 0 {
		return nil
	}
	if !d.c.refused.load() {
		err := unix.IoctlFileClone(dst, src)
		if err == nil {
			return nil
		}
		d.c.refused.note(err)
	}
	return withFiles(dst, src, e.Path, func(to, from *os.File) error {
		return d.c.b.content(d.c.ctx, to, from, e.Size, d.c.b.meter)
	})
}

// withFiles lends two descriptors as files.
func withFiles(dst, src int, name string, f func(dst, src *os.File) error) error {
	var err error
	fds := [2]int{dst, src}
	var files [2]*os.File
	for i, fd := range fds {
		if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			return err
		}
		files[i] = os.NewFile(uintptr(fd), name)
		defer files[i].Close() //nolint:gocritic // two of them
	}
	return f(files[0], files[1])
}

// link makes the further names of all files, and stamps the files anew: a link
// changes their ctime.
func (c *cloner) link() error {
	slices.SortFunc(c.pending, func(a, b linkPair) int { return snapshot.ComparePaths(a.entry.Path, b.entry.Path) })
	for i := range c.pending {
		p := &c.pending[i]
		if err := c.b.link(p.first, &p.entry); err != nil {
			return err
		}
	}
	if c.b.stamps == nil {
		return nil
	}
	for _, first := range c.links {
		dir, name, err := c.b.p.at(first)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return c.b.p.wrap("stat", first, err)
		}
		c.b.stamps.add(st.Ino, stamp{st.Ctim.Nano(), first})
	}
	return nil
}
