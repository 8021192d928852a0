package view

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// gatherRoom is how many times a bundle's size must be free on the disk before one
// is written: jobs that run meanwhile need room too.
const gatherRoom = 4

// Gather implements Gatherer. The bundle has the form of Unpack's and lies in
// c<id>: u<id> is a tree, in which a job may have made a file of any name. Large
// files stay where they are.
//
// Crash states, in order:
//  1. before the rename: a file in the trash, which Reconcile empties.
//  2. after it: a bundle that no image refers to. The next one is the same, byte for
//     byte, and takes its place.
func (d *Erofs) Gather(ctx context.Context, l *Layer, t Tree) (*Layer, Tree, error) {
	if err := checkLayer(l); err != nil || l == nil {
		return nil, nil, errors.Join(err, fmt.Errorf("gather files of %v", l))
	}
	if d.images.method == erofs.Loop || l.Pruned { // each bundle would take a loop device
		return nil, nil, nil
	}
	g := &gathered{upper: d.abs(l.Dir) + "/", bundle: d.abs(gatheredOf(l.ID)), tree: t, plan: newBundlePlan(0)}
	if err := d.gather(ctx, l, g); err != nil {
		return nil, nil, fmt.Errorf("gather files of %s: %w", l.ID, err)
	}
	out := *l
	out.Gathered = true
	return &out, g.located, nil
}

// gather writes the bundle of l.
func (d *Erofs) gather(ctx context.Context, l *Layer, g *gathered) error {
	err := g.own(func(i int, own, _ *snapshot.Entry) error {
		if own != nil {
			g.plan.add(false, own)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.roomFor(g.plan.bytes); err != nil {
		return err
	}
	return d.writeGathered(ctx, l, g)
}

// gathered is what Gather brings together of a tree. Of each own file there is its place
// in memory, nothing more.
type gathered struct {
	upper  string // ends with a slash
	bundle string
	tree   Tree
	plan   *bundlePlan // of the own files
}

// own calls fn for each entry e. Of the files with content in upper, each at the path
// that the tree has it at, own says where it is there, and i counts them. The tree may
// name bundle as their place: that is how far an earlier try came.
func (g *gathered) own(fn func(i int, own, e *snapshot.Entry) error) error {
	i := -1
	var one snapshot.Entry
	return g.tree(func(e *snapshot.Entry) error {
		if e.Type != snapshot.TypeFile || e.Size <= 0 {
			return fn(i, nil, e)
		}
		one = *e
		if e.Source == g.bundle && e.SourceAt > 0 {
			one.Source, one.SourceAt = g.upper+e.Path, 0
		}
		if rel, ok := strings.CutPrefix(one.Source, g.upper); !ok || rel != e.Path || one.SourceAt != 0 {
			return fn(i, nil, e)
		}
		i++
		return fn(i, &one, e)
	})
}

// located is the tree with the new places.
func (g *gathered) located(fn func(e *snapshot.Entry) error) error {
	return g.own(func(i int, own, e *snapshot.Entry) error {
		if own != nil {
			if i >= len(g.plan.spots) {
				return errChanged
			}
			if at := g.plan.spots[i].at; at > 0 {
				e.Source, e.SourceAt = g.bundle, at
			}
		}
		return fn(e)
	})
}

// roomFor refuses to fill the disk up.
func (d *Erofs) roomFor(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.root, &st); err != nil {
		return os.NewSyscallError("statfs", err)
	}
	if free := int64(st.Bavail) * st.Bsize; free/gatherRoom < bytes {
		return fmt.Errorf("%w: %d bytes free, a bundle takes %d", syscall.ENOSPC, free, bytes)
	}
	return nil
}

func (d *Erofs) writeGathered(ctx context.Context, l *Layer, g *gathered) error {
	p, err := newPlacer(d.abs(l.Dir), false)
	if err != nil {
		return err
	}
	defer p.close()
	f, err := durable.Create(d.abs(trashDir))
	if err != nil {
		return err
	}
	defer f.Abort()
	behind := durable.NewWriteback()
	err = g.fill(ctx, bufio.NewWriterSize(&paced{f, behind}, 1<<20), p, l.ID)
	behind.Stop()
	if err != nil {
		return err
	}
	fail.Point("view.gather.written")
	name := d.abs(gatheredOf(l.ID))
	if err := durable.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := f.Commit(name); err != nil {
		return err
	}
	fail.Point("view.gathered")
	return nil
}

// paced has what is written brought to the disk behind, so that the sync at the
// end is short: others wait for it.
type paced struct {
	f      *durable.File
	behind *durable.Writeback
}

func (w *paced) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	w.behind.Wrote(w.f.Fd(), n)
	return n, err
}

// fill writes a bundle from its begin to its end.
func (g *gathered) fill(ctx context.Context, w *bufio.Writer, p *placer, id snapshot.ID) error {
	if _, err := w.Write(bundleHeader(id)); err != nil {
		return err
	}
	var pad [bundleBlock]byte
	buf := make([]byte, bundleMost)
	err := g.own(func(i int, e, _ *snapshot.Entry) error {
		if e == nil {
			return nil
		}
		if i >= len(g.plan.spots) {
			return errChanged
		}
		if g.plan.spots[i].at == 0 || g.plan.first[i] != int32(i) {
			return nil
		}
		if i%32 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		b := buf[:e.Size]
		if err := readOwn(p, e, b); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		_, err := w.Write(pad[:(bundleBlock-e.Size%bundleBlock)%bundleBlock])
		return err
	})
	if err != nil {
		return err
	}
	return w.Flush()
}

// readOwn reads all of a sealed file, which must be as long as the tree says.
func readOwn(p *placer, e *snapshot.Entry, b []byte) error {
	f, err := p.open(e.Path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || fi.Size() != e.Size {
		return &snapshot.CorruptError{What: "file", Name: e.Source, Why: fmt.Sprintf("not a file of %d bytes any more", e.Size)}
	}
	_, err = io.ReadFull(f, b)
	return err
}

// Prune implements Gatherer. Directories that have nothing left go too.
//
// Crash states, in order:
//  1. views/<id>/pruned says that u<id> is no whole tree any more; all is there.
//  2. some files are gone: the rest goes the next time.
func (d *Erofs) Prune(ctx context.Context, l *Layer, t Tree) error {
	if err := checkLayer(l); err != nil {
		return err
	}
	if !l.Gathered || l.SmallIn(l) > 0 || len(l.Lowers) > 0 {
		return fmt.Errorf("prune %s: it needs its files", l.ID)
	}
	d.images.cache.forget(l.ID) // there may be some that lead to the files
	err := durable.WriteFile(filepath.Join(d.dir(l.ID), prunedName), 0o600, func(io.Writer) error { return nil })
	if err == nil {
		fail.Point("view.prune.marked")
		err = d.prune(ctx, l, t)
	}
	if err != nil {
		return fmt.Errorf("prune %s: %w", l.ID, err)
	}
	fail.Point("view.pruned")
	return nil
}

func (d *Erofs) prune(ctx context.Context, l *Layer, t Tree) error {
	p, err := newPlacer(d.abs(l.Dir), false)
	if err != nil {
		return err
	}
	defer p.close()
	bundle := d.abs(gatheredOf(l.ID))
	dirs := map[string]bool{}
	i := 0
	err = t(func(e *snapshot.Entry) error {
		if i++; i%64 == 1 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		if e.Source != bundle {
			return nil
		}
		fd, name, err := p.at(e.Path)
		if err == nil {
			err = p.wrap("remove", e.Path, unix.Unlinkat(fd, name, 0))
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		for dir := path.Dir(e.Path); dir != "." && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
		}
		return nil
	})
	if err != nil {
		return err
	}
	return p.removeEmpty(dirs)
}

// removeEmpty removes those of some directories that are empty, or get so by that.
func (p *placer) removeEmpty(dirs map[string]bool) error {
	list := make([]string, 0, len(dirs))
	for dir := range dirs {
		list = append(list, dir)
	}
	slices.Sort(list) // what is below a directory comes after it
	for _, dir := range slices.Backward(list) {
		fd, name, err := p.at(dir)
		if err == nil {
			err = p.wrap("remove", dir, unix.Unlinkat(fd, name, unix.AT_REMOVEDIR))
		}
		if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

var errPruned = errors.New("its small files lie in a bundle alone: only its tree tells where")

// isPruned reports whether a layer's own directory may lack files.
func (d *Erofs) isPruned(id snapshot.ID) (bool, error) {
	_, err := os.Lstat(filepath.Join(d.dir(id), prunedName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
