package tree

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// Look calls fn for each entry of the tree at root, on several cores at once and in
// no order but that a directory comes before what is in it. above is what fn
// returned for the directory that the entry is in, and for the root itself the zero
// value. The item, which is fn's only until it returns, has what Walk's has but
// Source and Target, and of attributes the names alone. What ends a Walk makes Look
// fail with the same error, that of the first path in the order of a manifest; but
// fn is called for all other entries, too. It takes half of a Walk's CPU time.
func Look[T any](ctx context.Context, root string, o ScanOptions, fn func(it *Item, above T) T) error {
	t, err := openTree(root)
	if err != nil {
		return err
	}
	defer t.close()
	t.lookOnly()
	l := look[T]{t: t, o: o, fn: fn, todo: make([]looked[T], 1)} // the root
	l.cond = sync.NewCond(&l.mu)
	var wg sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), maxScanners) - 1 {
		wg.Go(func() { l.work(ctx) })
	}
	l.work(ctx)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.err != nil {
		return fmt.Errorf("walk %s: %w", root, l.err)
	}
	return nil
}

// looked is a directory to look at.
type looked[T any] struct {
	rel   string
	above T
}

// look is the state of one Look.
type look[T any] struct {
	t  *treeRoot
	o  ScanOptions
	fn func(it *Item, above T) T

	// mu guards all below; it is never held across a system call.
	mu   sync.Mutex
	cond *sync.Cond
	todo []looked[T] // a stack
	busy int         // directories being looked at
	idle int         // workers that wait
	err  error       // the one about the first path so far
	at   string      // that path
}

func (l *look[T]) work(ctx context.Context) {
	v := looking[T]{l: l}
	for l.next(ctx, &v.d) {
		v.subs = v.subs[:0]
		l.t.look(v.d.rel, l.o, &v)
		l.done(v.subs)
	}
}

// next waits for a directory, and reports false when there will be none.
func (l *look[T]) next(ctx context.Context, d *looked[T]) bool {
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
		return false
	}
	*d = l.todo[len(l.todo)-1]
	l.todo = l.todo[:len(l.todo)-1]
	l.busy++
	return true
}

func (l *look[T]) done(subs []looked[T]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.busy--
	l.todo = append(l.todo, subs...)
	if l.idle > 0 && (len(l.todo) > 0 || l.busy == 0) {
		l.cond.Broadcast()
	}
}

// looker is told what is in a directory: first the directory itself.
type looker interface {
	dir(it *Item)
	entry(it *Item)
	sub(path string)               // a directory in it, about which nothing was asked yet
	failed(path string, err error) // path can't be described, or listed
}

// looking is one worker of a Look, at one directory.
type looking[T any] struct {
	l     *look[T]
	d     looked[T]
	below T
	subs  []looked[T]
}

func (v *looking[T]) dir(it *Item)   { v.below = v.l.fn(it, v.d.above) }
func (v *looking[T]) entry(it *Item) { v.l.fn(it, v.below) }
func (v *looking[T]) sub(path string) {
	v.subs = append(v.subs, looked[T]{path, v.below})
}

func (v *looking[T]) failed(path string, err error) {
	v.l.mu.Lock()
	defer v.l.mu.Unlock()
	if v.l.err == nil || snapshot.ComparePaths(path, v.l.at) < 0 {
		v.l.err, v.l.at = err, path
	}
}
