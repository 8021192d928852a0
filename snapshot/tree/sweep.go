package tree

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sort"
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
	read    bool  // all of it is there; guarded by sweep.mu
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
	todo []*dir // the last is the first in the order of a manifest
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
	d.read = !stop
	s.stop = s.stop || stop
	s.push(d.subs)
	s.cond.Broadcast()
}

// push adds the directories of one directory, all of which follow or precede any other
// in the order of a manifest. Who hands them on in that order does not wait long then.
func (s *sweep) push(subs []*dir) {
	if len(subs) == 0 {
		return
	}
	at := sort.Search(len(s.todo), func(i int) bool { return comparePaths(s.todo[i].rel, subs[0].rel) < 0 })
	s.todo = slices.Insert(s.todo, at, subs...)
	slices.Reverse(s.todo[at:][:len(subs)])
}

// wait returns when d was read, and reports whether it was.
func (s *sweep) wait(d *dir) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !d.read && !s.stop {
		s.cond.Wait()
	}
	return d.read
}

// end says that nobody wants what was not read yet.
func (s *sweep) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = true
	s.cond.Broadcast()
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
func (s *sweep) manifest(top *Item) (*snapshot.Manifest, error) {
	m := &snapshot.Manifest{Entries: make([]snapshot.Entry, 0, 1+s.top.count())}
	a := assembly{s: s, put: func(e *snapshot.Entry, _ *Inode) error {
		m.Entries = append(m.Entries, *e)
		return nil
	}}
	if err := a.all(top); err != nil {
		return nil, err
	}
	for _, i := range a.firsts {
		m.Entries[i].Link = m.Entries[i].Path
	}
	return m, nil
}

func (d *dir) count() int {
	n := len(d.entries)
	for _, sub := range d.subs {
		n += sub.count()
	}
	return n
}

// assembly hands the pieces on in order.
type assembly struct {
	s       *sweep
	put     func(e *snapshot.Entry, in *Inode) error
	n       int // entries that were put
	links   map[inodeKey]firstName
	firsts  []int
	refused bool // put returned an error
}

type inodeKey struct{ dev, ino uint64 }

// firstName is the first name of a file that may have another in the tree.
type firstName struct {
	at   int
	link string
	more bool // it has
}

// errStopped says that a directory was not read, since the sweep has ended.
var errStopped = errors.New("ended")

// all hands on the whole tree.
func (a *assembly) all(top *Item) error {
	a.links = map[inodeKey]firstName{}
	if err := a.one(&top.Entry, &top.Inode); err != nil {
		return err
	}
	err := a.below(a.s.top)
	slices.Sort(a.firsts)
	return err
}

// below hands on what is in d. It recurses as deep as directories are nested, which
// the longest path bounds.
func (a *assembly) below(d *dir) error {
	if !a.s.wait(d) {
		return errStopped
	}
	subs, links, none := d.subs, d.linked, Inode{}
	for i := range d.entries {
		e, in := &d.entries[i], &none
		if d.inodes != nil {
			in = &d.inodes[i]
		}
		if len(links) > 0 && links[0].at == i {
			e.Link = a.link(links[0], e.Path)
			links = links[1:]
		}
		isDir := e.Type == snapshot.TypeDir
		if err := a.one(e, in); err != nil {
			return err
		}
		if isDir {
			if err := a.below(subs[0]); err != nil {
				return err
			}
			subs[0], subs = nil, subs[1:]
		}
	}
	d.entries, d.inodes, d.linked = nil, nil, nil // let go of the copies
	return d.err
}

func (a *assembly) one(e *snapshot.Entry, in *Inode) error {
	err := a.put(e, in)
	a.n, a.refused = a.n+1, err != nil
	return err
}

// link returns what the Link of the next entry is, if it is not a first name.
func (a *assembly) link(l linked, path string) string {
	k := inodeKey{l.dev, l.ino}
	first, ok := a.links[k]
	if !ok {
		a.links[k] = firstName{at: a.n, link: path}
		return ""
	}
	if !first.more {
		a.firsts = append(a.firsts, first.at)
		first.more = true
		a.links[k] = first
	}
	return first.link
}

// errGone is said of a name that was listed and then was not there.
var errGone = errors.New("the tree changed while it was read")
