package tree

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// Look returns how many bytes the files of the tree at root have, a file of several
// names once, and fails as a Walk would, about the first path in the order of a
// manifest. It runs on several cores at once, says nothing of single entries and takes
// a third of a Walk's CPU time: somebody waits for it who only wants to know whether
// all of the tree can be kept.
func Look(ctx context.Context, root string) (bytes int64, err error) {
	t, err := openTree(root)
	if err != nil {
		return 0, err
	}
	defer t.close()
	t.lookOnly()
	l := look{t: t, todo: []string{""}, linked: map[[2]uint64]bool{}}
	l.cond = sync.NewCond(&l.mu)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxScanners) - 1 {
		wg.Go(func() { l.work(ctx) })
	}
	l.work(ctx)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if l.err != nil {
		return 0, fmt.Errorf("walk %s: %w", root, l.err)
	}
	return l.bytes, nil
}

// look is the state of one Look.
type look struct {
	t *treeRoot

	// mu guards all below; it is never held across a system call.
	mu     sync.Mutex
	cond   *sync.Cond
	todo   []string // directories to look at, a stack
	busy   int      // directories being looked at
	idle   int      // workers that wait
	bytes  int64
	linked map[[2]uint64]bool // files of several names that were seen, by device and inode
	err    error              // the one about the first path so far
	at     string             // that path
}

func (l *look) work(ctx context.Context) {
	var v looking
	v.l = l
	for l.next(ctx, &v) {
		v.subs = v.subs[:0]
		l.t.look(&v)
		l.done(&v)
	}
}

// next waits for a directory, and reports false when there will be none.
func (l *look) next(ctx context.Context, v *looking) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.todo) == 0 && l.busy > 0 {
		l.idle++
		l.cond.Wait()
		l.idle--
	}
	if len(l.todo) == 0 || ctx.Err() != nil {
		l.todo = nil
		l.cond.Broadcast()
		l.bytes += v.bytes
		return false
	}
	v.rel = l.todo[len(l.todo)-1]
	l.todo = l.todo[:len(l.todo)-1]
	l.busy++
	return true
}

func (l *look) done(v *looking) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	l.todo = append(l.todo, v.subs...)
	if l.idle > 0 && (len(l.todo) > 0 || l.busy == 0) {
		l.cond.Broadcast()
	}
}

// looking is one worker of a Look, at one directory.
type looking struct {
	l     *look
	rel   string
	subs  []string // directories in it, about which nothing was asked yet
	bytes int64    // of files so far
	buf   lookBuffers
}

// file adds a file, unless it is a further name of one that was seen.
func (v *looking) file(size int64, i Inode) {
	if i.Nlink > 1 {
		ino := [2]uint64{i.Dev, i.Ino}
		v.l.mu.Lock()
		was := v.l.linked[ino]
		v.l.linked[ino] = true
		v.l.mu.Unlock()
		if was {
			return
		}
	}
	v.bytes += size
}

// sub notes a directory that is in this one.
func (v *looking) sub(name string) {
	path := v.path(name)
	if err := fits(path, name); err != nil {
		v.failed(path, err)
		return
	}
	v.subs = append(v.subs, path)
}

func (v *looking) path(name string) string {
	if v.rel == "" {
		return name
	}
	return v.rel + "/" + name
}

// failed says that path can't be kept, or listed.
func (v *looking) failed(path string, err error) {
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	if v.l.err == nil || snapshot.ComparePaths(path, v.l.at) < 0 {
		v.l.err, v.l.at = err, path
	}
}
