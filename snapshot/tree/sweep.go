package tree

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// maxScanners bounds the goroutines of one scan: metadata calls are short and
// mostly in the kernel, and beyond a few they wait for the same locks.
const maxScanners = 8

// dir is what a sweep found in one directory.
type dir struct {
	rel     string
	entries []snapshot.Entry // sorted
	inodes  []Inode          // of entries, if they are wanted
	subs    []*dir           // one for each directory among entries, in their order
	linked  []linked
	err     error // why there is nothing behind the last of entries
}

// linked is a regular file with more than one name, here or elsewhere.
type linked struct {
	at       int // in entries
	dev, ino uint64
}

// sweep reads directories in parallel, each as one task. The pieces are put
// together in order afterwards, so what it says does not depend on timing.
type sweep struct {
	t *treeRoot
	o ScanOptions

	inodes bool // are wanted
	top    *dir

	// mu guards the fields below; it is never held across a system call.
	mu   sync.Mutex
	cond *sync.Cond
	todo []*dir // a stack, to keep few directories half read
	busy int    // tasks being worked on
	stop bool
}

func newSweep(t *treeRoot, o ScanOptions) *sweep {
	s := &sweep{t: t, o: o, top: &dir{}}
	s.cond = sync.NewCond(&s.mu)
	s.todo = []*dir{s.top}
	return s
}

// run reads everything. What goes wrong with a directory is kept in it.
func (s *sweep) run(ctx context.Context) error {
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxScanners) {
		wg.Go(func() { s.work(ctx) })
	}
	wg.Wait()
	return ctx.Err()
}

func (s *sweep) work(ctx context.Context) {
	var items []Item // reused from directory to directory
	for {
		d := s.next()
		if d == nil {
			return
		}
		items = s.read(d, items[:0])
		s.done(d, ctx.Err() != nil)
	}
}

// next waits for a task, and returns nil when there will be none.
func (s *sweep) next() *dir {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.todo) == 0 && s.busy > 0 && !s.stop {
		s.cond.Wait()
	}
	if s.stop || len(s.todo) == 0 {
		return nil
	}
	d := s.todo[len(s.todo)-1]
	s.todo = s.todo[:len(s.todo)-1]
	s.busy++
	return d
}

func (s *sweep) done(d *dir, stop bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.stop = s.stop || stop
	s.todo = append(s.todo, d.subs...)
	if len(d.subs) > 0 || s.busy == 0 || s.stop {
		s.cond.Broadcast()
	}
}

// read fills d.
func (s *sweep) read(d *dir, items []Item) []Item {
	items, d.err = s.t.list(d.rel, s.o, items)
	d.entries = make([]snapshot.Entry, 0, len(items))
	for i := range items {
		it := &items[i]
		if err := keepable(it); err != nil {
			if s.o.skipped(err) {
				continue
			}
			d.err = err
			break
		}
		if it.Entry.Type == snapshot.TypeFile && it.Inode.Nlink > 1 {
			d.linked = append(d.linked, linked{len(d.entries), it.Inode.Dev, it.Inode.Ino})
		}
		if it.Entry.Type == snapshot.TypeDir {
			d.subs = append(d.subs, &dir{rel: it.Entry.Path})
		}
		d.entries = append(d.entries, it.Entry)
		if s.inodes {
			d.inodes = append(d.inodes, it.Inode)
		}
	}
	return items
}

// manifest puts the pieces together. The first error in the order of a manifest
// is the one that is returned.
func (s *sweep) manifest(top *Item) (*snapshot.Manifest, []Inode, error) {
	a := assembly{links: map[[2]uint64]int{}}
	n := 1 + s.top.count()
	a.entries = append(make([]snapshot.Entry, 0, n), top.Entry)
	if s.inodes {
		a.inodes = append(make([]Inode, 0, n), top.Inode)
	}
	if err := a.add(s.top); err != nil {
		return nil, nil, err
	}
	return &snapshot.Manifest{Entries: a.entries}, a.inodes, nil
}

func (d *dir) count() int {
	n := len(d.entries)
	for _, sub := range d.subs {
		n += sub.count()
	}
	return n
}

type assembly struct {
	entries []snapshot.Entry
	inodes  []Inode
	links   map[[2]uint64]int // (dev, ino) to the place of its first name
}

// add appends d's entries. It recurses as deep as directories are nested, which
// the longest path bounds.
func (a *assembly) add(d *dir) error {
	subs, links := d.subs, d.linked
	for i := range d.entries {
		a.entries = append(a.entries, d.entries[i])
		if d.inodes != nil {
			a.inodes = append(a.inodes, d.inodes[i])
		}
		if len(links) > 0 && links[0].at == i {
			a.link(links[0])
			links = links[1:]
		}
		if d.entries[i].Type == snapshot.TypeDir {
			if err := a.add(subs[0]); err != nil {
				return err
			}
			subs = subs[1:]
		}
	}
	d.entries, d.inodes = nil, nil // let go of the copies
	return d.err
}

func (a *assembly) link(l linked) {
	at := len(a.entries) - 1
	first, ok := a.links[[2]uint64{l.dev, l.ino}]
	if !ok {
		a.links[[2]uint64{l.dev, l.ino}] = at
		return
	}
	a.entries[first].Link = a.entries[first].Path
	a.entries[at].Link = a.entries[first].Path
}

// errGone is said of a name that was listed and then was not there.
var errGone = errors.New("the tree changed while it was read")
