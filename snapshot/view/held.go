package view

import (
	"os"
	"sync"

	"github.com/roost-ci/roost/snapshot"
)

// held has for each view a descriptor of its file system that was opened before
// the job started: an error of write-back is told once to each descriptor, and
// only to those that were open when it happened. Sync uses it up.
type held struct {
	mu sync.Mutex // guards f; not held across I/O
	f  map[snapshot.ID]*os.File
}

func (h *held) keep(id snapshot.ID, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.f == nil {
		h.f = map[snapshot.ID]*os.File{}
	}
	h.f[id] = f
	return nil
}

// take returns id's descriptor, or a fresh one of dir for what an earlier process
// sealed.
func (h *held) take(id snapshot.ID, dir string) (*os.File, error) {
	h.mu.Lock()
	f := h.f[id]
	delete(h.f, id)
	h.mu.Unlock()
	if f != nil {
		return f, nil
	}
	return os.Open(dir)
}

func (h *held) drop(id snapshot.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.f[id]; f != nil {
		f.Close() //nolint:errcheck // only held for syncing
	}
	delete(h.f, id)
}

// kept are the views that were taken over from an earlier process.
type kept []keptView

type keptView struct{ upper, target string }
