package view

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// release ends one use. What could not be mounted is forgotten, so that the next
// use tries again.
func (m *images) release(rel string, x *imageMount) {
	m.mu.Lock()
	x.uses--
	failed := false
	select {
	case <-x.ready:
		failed = x.err != nil
	default: // somebody gave up waiting
	}
	if failed && m.hot[rel] == x {
		m.leaveLocked(rel)
	}
	var end []*imageMount
	if x.gone && x.uses == 0 && !failed {
		end = append(end, x)
	}
	end = append(end, m.coldLocked()...)
	m.mu.Unlock()
	m.unmount(end)
}

// coldLocked takes the mounts that were not used for longest out of hot.
func (m *images) coldLocked() []*imageMount {
	var out []*imageMount
	for m.live > m.maxHot {
		var oldest *imageMount
		for _, x := range m.hot {
			if x.uses == 0 && (oldest == nil || x.last < oldest.last) {
				oldest = x
			}
		}
		if oldest == nil {
			break
		}
		for rel, x := range m.hot {
			if x == oldest {
				m.leaveLocked(rel)
			}
		}
		out = append(out, oldest)
	}
	return out
}

// drop forgets the mount of rel, because the file is another one now or will go.
func (m *images) drop(rel string) {
	m.mu.Lock()
	x, ok := m.hot[rel]
	idle := false
	if ok && m.leaveLocked(rel) {
		x.gone, idle = true, x.uses == 0
	}
	m.mu.Unlock()
	if idle {
		m.unmount([]*imageMount{x})
	}
}

// dropAll forgets all mounts.
func (m *images) dropAll() {
	m.mu.Lock()
	all := make([]string, 0, len(m.hot))
	for rel := range m.hot {
		all = append(all, rel)
	}
	m.mu.Unlock()
	for _, rel := range all {
		m.drop(rel)
	}
}

// unmount takes idle mounts away. One that somebody looks into from outside stays
// until the next start: nobody can write to it.
func (m *images) unmount(list []*imageMount) {
	for _, x := range list {
		err := unix.Unmount(x.at, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // no mount any more
			err = nil
		}
		if err == nil {
			err = os.Remove(x.at)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			m.o.Log.Warn("an image stays mounted; it is unmounted at the next start", "at", x.at, "err", err)
		}
	}
}
