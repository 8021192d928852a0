package store

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// stacked reports whether a layer's own directory holds just what its job touched.
func stacked(l *view.Layer) bool { return len(l.Lowers) > 0 }

// check looks at what the job touched, with the driver's unmount beside it. Nobody
// is writing any more; if somebody is, the seal is refused. It finds what can't be
// part of a snapshot, and adds up sizes: DiskBytes, and TreeBytes if it can.
func (s *Store) check(ctx context.Context, l *layer) error {
	z := s.newSizer(l)
	dir := filepath.Join(s.dir, filepath.FromSlash(l.place().Dir))
	if err := tree.Look(ctx, dir, tree.ScanOptions{Owners: s.o.Owners}, z.see); err != nil {
		return err
	}
	l.info.DiskBytes = z.own.Load()
	if z.began >= 0 {
		l.atMost = z.began + z.own.Load()
	}
	if !z.unsure.Load() {
		l.info.TreeBytes, l.unsized = z.began+z.change.Load(), false
	}
	return nil
}

// checkTree does the same where the layer is a whole tree: only a comparison with
// its base tells what the job did.
func (s *Store) checkTree(ctx context.Context, l *layer, sealed error) error {
	if sealed != nil {
		return nil
	}
	b, m := s.startTree(l)
	if m == nil {
		select {
		case <-b.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if b.err != nil {
			return b.err
		}
		m = b.m
	}
	l.info.DiskBytes = m.Bytes()
	return nil
}

// sizer computes how large the tree is with what the job touched, without making
// the tree: that would take a time that grows with the tree, and the next job may
// be waiting. It is unsure if the base's tree is not in memory, and of hard links and
// renamed directories, where a name does not tell what it stands on. Then it only
// knows how large the tree is at most, until that is made behind the seal.
type sizer struct {
	base   *snapshot.Manifest // what the view showed at first; nil: nothing
	began  int64              // how large that was, or at most; -1: not known
	unsure atomic.Bool
	change atomic.Int64 // of the tree's size
	own    atomic.Int64

	mu     sync.Mutex
	linked map[[2]uint64]bool // guarded by mu
}

// Marks of overlay layers that say what a name stands on.
const (
	markOpaque   = "trusted.overlay.opaque"
	markRedirect = "trusted.overlay.redirect"
)

func (s *Store) newSizer(l *layer) *sizer {
	z := &sizer{linked: map[[2]uint64]bool{}}
	if l.info.Base == "" {
		return z
	}
	base, inMemory := s.trees.get(l.info.Base)
	z.base = base
	s.mu.Lock()
	defer s.mu.Unlock()
	z.began = s.layers[l.info.Base].mostLocked()
	if v := s.views[l.info.ID]; v != nil && v.fanin != nil {
		z.began = v.fanin.bytes
	}
	z.unsure.Store(!inMemory || l.fanin || s.layers[l.info.Base].unsized)
	return z
}

// see takes the entries of the layer. hidden says of a directory's entries that what
// the base has at their names is not to be seen, and is taken away already.
func (z *sizer) see(it *tree.Item, hidden bool) (below bool) {
	e := &it.Entry
	if z.again(it) {
		return hidden
	}
	z.own.Add(e.Size)
	z.change.Add(e.Size)
	if z.base == nil || z.unsure.Load() {
		return hidden
	}
	opaque := false
	for _, x := range it.Special {
		opaque = opaque || x.Name == markOpaque
		if x.Name == markRedirect {
			z.unsure.Store(true)
		}
	}
	if e.Type == snapshot.TypeDir && !opaque {
		return hidden // merged with the base's, or new
	}
	old, ok := z.base.Find(e.Path)
	if it.Inode.Nlink > 1 && e.Type == snapshot.TypeFile || ok && old.Link != "" {
		z.unsure.Store(true)
	}
	if !ok || hidden {
		return hidden
	}
	z.change.Add(-old.Size)
	if old.Type == snapshot.TypeDir && (opaque || e.Type != snapshot.TypeDir) {
		z.hide(e.Path)
		return true
	}
	return false
}

// hide takes away what the base has below path.
func (z *sizer) hide(path string) {
	for _, o := range z.base.Under(path) {
		z.change.Add(-o.Size)
		if o.Link != "" {
			z.unsure.Store(true)
		}
	}
}

// again reports whether it is a further name of a file that was seen.
func (z *sizer) again(it *tree.Item) bool {
	if it.Inode.Nlink < 2 || it.Entry.Type != snapshot.TypeFile {
		return false
	}
	ino := [2]uint64{it.Inode.Dev, it.Inode.Ino}
	z.mu.Lock()
	defer z.mu.Unlock()
	was := z.linked[ino]
	z.linked[ino] = true
	return was
}
