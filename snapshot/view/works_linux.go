package view

import (
	"context"
	"strings"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// works are the work directories that are being deleted behind their views' seals: some
// twenty changes of directories, each of which may have to wait for the journal.
type works struct {
	mu    sync.Mutex // guards going; not held across system calls
	going map[snapshot.ID]chan struct{}
}

// shredSoon has shred delete one, unless that is under way.
func (w *works) shredSoon(ctx context.Context, id snapshot.ID, shred func(context.Context, snapshot.ID)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.going[id] != nil {
		return
	}
	if w.going == nil {
		w.going = map[snapshot.ID]chan struct{}{}
	}
	done := make(chan struct{})
	w.going[id] = done
	go func() {
		shred(context.WithoutCancel(ctx), id)
		w.mu.Lock()
		delete(w.going, id)
		w.mu.Unlock()
		close(done)
	}()
}

// wait waits until nothing is being deleted of a view.
func (w *works) wait(id snapshot.ID) {
	w.mu.Lock()
	done := w.going[id]
	w.mu.Unlock()
	if done != nil {
		<-done
	}
}

// waitAll waits for all that are under way.
func (w *works) waitAll() {
	w.mu.Lock()
	var all []chan struct{}
	for _, done := range w.going {
		all = append(all, done)
	}
	w.mu.Unlock()
	for _, done := range all {
		<-done
	}
}

// shredWork deletes what the kernel left in a work directory: it is of no use to anybody.
func (d *Overlay) shredWork(ctx context.Context, id snapshot.ID) { d.shredPart(ctx, id, workName) }

func (d *Overlay) shredPart(ctx context.Context, id snapshot.ID, name string) {
	if err := shredIn(ctx, d.dir(id), name); err != nil {
		d.o.Log.Warn("work directory not deleted", "view", id, "err", err)
	}
}

// shredWorks deletes what an earlier process left of layers' work directories.
func (d *Overlay) shredWorks(ctx context.Context, layers []snapshot.ID, busy map[string]bool) {
	for _, id := range layers {
		if busy[d.dir(id)] {
			continue
		}
		names, err := readNames(d.dir(id))
		if err != nil {
			continue // there is no such directory, or the store will say so
		}
		for _, name := range names {
			if strings.HasPrefix(name, workName) { // and what was moved up in it
				d.shredPart(ctx, id, name)
			}
		}
	}
}

// Close implements io.Closer. Views stay as they are.
func (d *Overlay) Close() error {
	d.works.waitAll()
	return nil
}
