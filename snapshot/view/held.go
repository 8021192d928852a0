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
	mu sync.Mutex // guards all below; not held across I/O
	f  map[snapshot.ID]*os.File
	// late are those that were opened when the job had begun: of views taken over.
	late map[snapshot.ID]bool
}

// begin opens one for a view or a layer that is empty yet.
func (h *held) begin(id snapshot.ID, dir string) error { return h.open(id, dir, false) }

// keep opens one for a view of an earlier process.
func (h *held) keep(id snapshot.ID, dir string) error { return h.open(id, dir, true) }

func (h *held) open(id snapshot.ID, dir string, late bool) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.f == nil {
		h.f, h.late = map[snapshot.ID]*os.File{}, map[snapshot.ID]bool{}
	}
	h.f[id] = f
	if late {
		h.late[id] = true
	}
	return nil
}

// take returns id's descriptor, or a fresh one of dir for what an earlier process
// sealed. late says that there may have been errors before it was opened.
func (h *held) take(id snapshot.ID, dir string) (f *os.File, late bool, err error) {
	h.mu.Lock()
	f, late = h.f[id], h.late[id]
	delete(h.f, id)
	delete(h.late, id)
	h.mu.Unlock()
	if f != nil {
		return f, late, nil
	}
	f, err = os.Open(dir)
	return f, true, err
}

func (h *held) drop(id snapshot.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.f[id]; f != nil {
		f.Close() //nolint:errcheck // only held for syncing
	}
	delete(h.f, id)
	delete(h.late, id)
}

// kept are the views that were taken over from an earlier process.
type kept []keptView

type keptView struct{ upper, target string }
