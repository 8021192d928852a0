package store

import (
	"context"
	"path/filepath"

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
	err := tree.Walk(ctx, dir, tree.ScanOptions{Owners: s.o.Owners}, func(it *tree.Item) error {
		z.see(it)
		return nil
	})
	if err != nil {
		return err
	}
	l.info.DiskBytes = z.own
	if z.sure {
		l.info.TreeBytes, l.unsized = z.tree, false
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
// be waiting. It gives up (sure is false) on hard links and on renamed directories,
// where a name does not tell what it stands on; then the tree has to be made.
type sizer struct {
	base   *snapshot.Manifest // what the view showed at first; nil: nothing
	tree   int64
	own    int64
	sure   bool
	gone   string // the last directory of which the base's content is hidden
	linked map[[2]uint64]bool
}

// Marks of overlay layers that say what a name stands on.
const (
	markOpaque   = "trusted.overlay.opaque"
	markRedirect = "trusted.overlay.redirect"
)

func (s *Store) newSizer(l *layer) *sizer {
	z := &sizer{sure: !l.fanin, linked: map[[2]uint64]bool{}}
	if l.info.Base == "" {
		return z
	}
	s.mu.Lock()
	base, ok := s.layers[l.info.Base]
	if z.sure = z.sure && ok && !base.unsized; z.sure {
		z.tree = base.info.TreeBytes
	}
	s.mu.Unlock()
	if z.base, ok = s.trees.get(l.info.Base); !ok {
		z.sure = false
	}
	return z
}

// see takes the entries of the layer in the order of a manifest.
func (z *sizer) see(it *tree.Item) {
	e := &it.Entry
	if z.again(it) {
		return
	}
	z.own += e.Size
	if !z.sure {
		return
	}
	z.tree += e.Size
	if z.base == nil {
		return
	}
	opaque := false
	for _, x := range it.Special {
		opaque = opaque || x.Name == markOpaque
		z.sure = z.sure && x.Name != markRedirect
	}
	old, ok := z.base.Find(e.Path)
	if it.Inode.Nlink > 1 && e.Type == snapshot.TypeFile || ok && old.Link != "" {
		z.sure = false
	}
	if !ok || z.gone != "" && overlaps(z.gone, e.Path) {
		return
	}
	z.tree -= old.Size
	if old.Type == snapshot.TypeDir && (opaque || e.Type != snapshot.TypeDir) {
		z.hide(e.Path)
	}
}

// hide takes away what the base has below path.
func (z *sizer) hide(path string) {
	z.gone = path
	for _, o := range z.base.Under(path) {
		z.tree -= o.Size
		z.sure = z.sure && o.Link == ""
	}
}

// again reports whether it is a further name of a file that was seen.
func (z *sizer) again(it *tree.Item) bool {
	if it.Inode.Nlink < 2 || it.Entry.Type != snapshot.TypeFile {
		return false
	}
	ino := [2]uint64{it.Inode.Dev, it.Inode.Ino}
	was := z.linked[ino]
	z.linked[ino] = true
	return was
}
