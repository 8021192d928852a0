package tree

import (
	"context"
	"runtime"
	"strings"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// Resurvey looks again at what Each found of root, and reports of each of its n
// entries whether it is as it was: type, mode, owner, size, times, and the inode with
// its ctime, which every change of an inode moves. So attributes, a symlink's target and
// the names in a directory need not be asked for, and what Each would say of such an
// entry now is what it said then; but for Link, if a directory that holds another name of
// the file was moved in or out.
//
// each calls fn for these entries in the order of a manifest, the root first. An entry
// whose inode has no CTime is one of which nothing is known. What fn is given is not
// kept. An error of each ends it and is returned as it is; what can't be looked at is not
// as it was.
func Resurvey(ctx context.Context, root string, o ScanOptions, n int, each func(fn func(e *snapshot.Entry, in Inode) error) error) ([]bool, error) {
	t, err := openTree(root)
	if err != nil {
		return nil, err
	}
	defer t.close()
	r := resurvey{t: t, o: o, same: make([]bool, n), todo: make(chan *batch, 16)}
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxScanners) {
		wg.Go(func() {
			for b := range r.todo {
				if ctx.Err() == nil {
					r.t.again(b, r.o, r.same)
				}
				r.spare.Put(b)
			}
		})
	}
	err = each(func(e *snapshot.Entry, in Inode) error {
		r.add(e, in)
		return ctx.Err()
	})
	for len(r.open) > 0 {
		r.leave()
	}
	close(r.todo)
	wg.Wait()
	if err == nil {
		err = ctx.Err()
	}
	return r.same, err
}

// resurvey is a Resurvey under way: it sorts a list by directories, each of which is
// looked at by somebody else while the list goes on.
type resurvey struct {
	t    *treeRoot
	o    ScanOptions
	same []bool
	n    int      // entries that were added
	open []*batch // the directories that the next entry may be in
	todo chan *batch

	spare sync.Pool
}

// batch are some entries of one directory.
type batch struct {
	rel   string
	names []byte // each with a zero behind it
	items []known
}

// known is what is to be found again.
type known struct {
	at             int // of all entries
	name           int // where it begins
	kind           snapshot.Type
	mode, uid, gid uint32
	size, mtime    int64
	inode          Inode
}

// mostItems bounds what one batch holds, so that a huge directory is shared out.
const mostItems = 512

func (r *resurvey) add(e *snapshot.Entry, in Inode) {
	at := r.n
	r.n++
	for len(r.open) > 0 && !below(e.Path, r.open[len(r.open)-1].rel) {
		r.leave()
	}
	if e.Type == snapshot.TypeDir && at == 0 { // the root is looked at from within
		r.enter("")
	}
	if len(r.open) == 0 {
		return
	}
	if b := r.open[len(r.open)-1]; in.CTime != 0 && at < len(r.same) {
		if len(b.items) == mostItems {
			rel := b.rel
			r.leave()
			r.enter(rel)
			b = r.open[len(r.open)-1]
		}
		name := "."
		if at > 0 {
			name = nameOf(e.Path)
		}
		b.items = append(b.items, known{
			at: at, name: len(b.names), kind: e.Type, mode: e.Mode, uid: e.UID, gid: e.GID,
			size: e.Size, mtime: e.MTime, inode: in,
		})
		b.names = append(append(b.names, name...), 0)
	}
	if e.Type == snapshot.TypeDir && at > 0 {
		r.enter(strings.Clone(e.Path))
	}
}

func (r *resurvey) enter(rel string) {
	b, _ := r.spare.Get().(*batch)
	if b == nil {
		b = &batch{}
	}
	*b = batch{rel: rel, names: b.names[:0], items: b.items[:0]}
	r.open = append(r.open, b)
}

// leave hands on the last of open.
func (r *resurvey) leave() {
	l := len(r.open) - 1
	b := r.open[l]
	r.open = r.open[:l]
	if len(b.items) == 0 {
		r.spare.Put(b)
		return
	}
	r.todo <- b
}
