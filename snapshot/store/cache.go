package store

import (
	"container/list"
	"sync"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

// lru keeps what was used last, bounded by a weight. The newest is kept whatever
// it weighs.
type lru[V any] struct {
	mu    sync.Mutex // guards all below
	limit int
	total int
	order *list.List // of *lruItem[V], the last used in front
	items map[snapshot.ID]*list.Element
}

type lruItem[V any] struct {
	id     snapshot.ID
	value  V
	weight int
}

func newLRU[V any](limit int) *lru[V] {
	return &lru[V]{limit: limit, order: list.New(), items: map[snapshot.ID]*list.Element{}}
}

func (c *lru[V]) get(id snapshot.ID) (v V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[id]
	if !ok {
		return v, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruItem[V]).value, true //nolint:forcetypeassert // nothing else is put there
}

func (c *lru[V]) put(id snapshot.ID, v V, weight int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(id)
	c.items[id] = c.order.PushFront(&lruItem[V]{id: id, value: v, weight: weight})
	c.total += weight
	for c.total > c.limit && c.order.Len() > 1 {
		c.dropLocked(c.order.Back().Value.(*lruItem[V]).id) //nolint:forcetypeassert // as above
	}
}

func (c *lru[V]) drop(id snapshot.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(id)
}

func (c *lru[V]) dropLocked(id snapshot.ID) {
	if e, ok := c.items[id]; ok {
		c.total -= e.Value.(*lruItem[V]).weight //nolint:forcetypeassert // as above
		c.order.Remove(e)
		delete(c.items, id)
	}
}

// treeCache keeps trees and sees to it that each is built once at a time.
type treeCache struct {
	*lru[*snapshot.Manifest]
	building map[snapshot.ID]*building // guarded by lru.mu
}

// building is a tree in the making. m and err may be read when done is closed.
type building struct {
	done chan struct{}
	m    *snapshot.Manifest
	err  error
}

func newTreeCache(limit int) *treeCache {
	return &treeCache{lru: newLRU[*snapshot.Manifest](limit), building: map[snapshot.ID]*building{}}
}

// enter returns the tree, or the building to wait for; mine says that the caller
// has to do it and to call leave.
func (c *treeCache) enter(id snapshot.ID) (m *snapshot.Manifest, b *building, mine bool) {
	if m, ok := c.get(id); ok {
		return m, nil, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b, ok := c.building[id]; ok {
		return nil, b, false
	}
	b = &building{done: make(chan struct{})}
	c.building[id] = b
	return nil, b, true
}

func (c *treeCache) leave(id snapshot.ID, b *building) {
	c.mu.Lock()
	delete(c.building, id)
	c.mu.Unlock()
	close(b.done)
}

// locationCache keeps where the chunks of a layer's index are.
type locationCache = lru[*pack.Places]

func newLocationCache(limit int) *locationCache {
	return newLRU[*pack.Places](limit)
}
