package transfer

import (
	"slices"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// entry is a queued item. Uploader.mu guards it.
type entry struct {
	Item
	state     []blobState // of Item.Blobs
	first     int         // all before it are done
	left      int64       // bytes not done
	telling   bool        // a worker is in Durable
	fails     int         // in a row
	notBefore time.Time
}

type blobState uint8

const (
	blobWaiting blobState = iota
	blobSending
	blobDone
)

func newEntry(it Item) *entry {
	it.Blobs = slices.Clone(it.Blobs)
	e := &entry{Item: it, state: make([]blobState, len(it.Blobs))}
	for _, b := range it.Blobs {
		e.left += b.Bytes
	}
	return e
}

// task is what a worker does next: send a blob, or tell that all is done.
type task struct {
	e    *entry
	blob int // -1: tell
}

// pick returns the next thing to do for e. The last blob, the index, waits for all
// others.
func (e *entry) pick(sending map[snapshot.Digest]bool) (task, bool) {
	for e.first < len(e.state) && e.state[e.first] == blobDone {
		e.first++
	}
	if e.first == len(e.state) {
		return task{e, -1}, !e.telling
	}
	last := len(e.state) - 1
	for i := e.first; i < last; i++ {
		if e.state[i] == blobWaiting && !sending[e.Blobs[i].Digest] {
			return task{e, i}, true
		}
	}
	ok := e.first == last && e.state[last] == blobWaiting && !sending[e.Blobs[last].Digest]
	return task{e, last}, ok
}

// beginLocked marks t as being done.
func (u *Uploader) beginLocked(t task) {
	u.active++
	if t.blob < 0 {
		t.e.telling = true
		return
	}
	t.e.state[t.blob] = blobSending
	u.sending[t.e.Blobs[t.blob].Digest] = true
}

// next takes something to do. If there is nothing, it says how long to wait at most
// (0: for ever) unless the channel is closed before.
func (u *Uploader) next() (t task, ok bool, wait time.Duration, changed <-chan struct{}) {
	now := u.o.Now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if d := u.paused.Sub(now); d > 0 {
		return task{}, false, d, u.changed
	}
	if u.fails > 0 && u.active > 0 {
		return task{}, false, 0, u.changed // one asks whether the store is back
	}
	for _, q := range [][]*entry{u.urgent, u.normal} {
		for _, e := range q {
			if d := e.notBefore.Sub(now); d > 0 {
				if wait == 0 || d < wait {
					wait = d
				}
				continue
			}
			if t, ok := e.pick(u.sending); ok {
				u.beginLocked(t)
				return t, true, 0, nil
			}
		}
	}
	return task{}, false, wait, u.changed
}

// end gives t back, done if done. A finished item leaves the queue.
func (u *Uploader) end(t task, done bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	defer u.wakeLocked()
	u.active--
	if t.blob < 0 {
		if t.e.telling = false; done {
			u.dropLocked(t.e)
		}
		return
	}
	b := t.e.Blobs[t.blob]
	delete(u.sending, b.Digest)
	t.e.state[t.blob] = blobWaiting
	if done {
		t.e.state[t.blob] = blobDone
		t.e.left -= b.Bytes
	}
}

// dropLocked takes e out of the queue.
func (u *Uploader) dropLocked(e *entry) {
	if u.byID[e.ID] != e {
		return
	}
	delete(u.byID, e.ID)
	u.urgent, _ = remove(u.urgent, e)
	u.normal, _ = remove(u.normal, e)
}

// remove returns q without e, and whether e was in it.
func remove(q []*entry, e *entry) ([]*entry, bool) {
	i := slices.Index(q, e)
	if i < 0 {
		return q, false
	}
	return slices.Delete(q, i, i+1), true
}
