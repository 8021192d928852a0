package coordinator

import "sync"

// hub wakes those who wait for something to happen to a key.
type hub struct {
	// mu guards topics. Nothing is called under it.
	mu     sync.Mutex
	topics map[string]*topic
}

type topic struct {
	ch    chan struct{}
	users int
}

// wait gives a channel that is closed at the next notify of key, and what to call
// when nobody waits any more. Look at the thing after wait, not before.
func (h *hub) wait(key string) (<-chan struct{}, func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.topics == nil {
		h.topics = map[string]*topic{}
	}
	t := h.topics[key]
	if t == nil {
		t = &topic{ch: make(chan struct{})}
		h.topics[key] = t
	}
	t.users++
	return t.ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if t.users--; t.users == 0 && h.topics[key] == t {
			delete(h.topics, key)
		}
	}
}

// notify wakes all who wait for key.
func (h *hub) notify(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.topics[key]; t != nil {
		close(t.ch)
		delete(h.topics, key)
	}
}

// Keys of the hub.
func eventsOf(pipeline string) string { return "events/" + pipeline }
func claimsOf(host string) string     { return "claims/" + host }
func logOf(attempt string) string     { return "log/" + attempt }
