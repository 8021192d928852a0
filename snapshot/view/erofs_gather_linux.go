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
func (d *Erofs) Gather(ctx context.Context, l *Layer, m *snapshot.Manifest) (*Layer, *snapshot.Manifest, error) {
	if err := checkLayer(l); err != nil || l == nil {
		return nil, nil, errors.Join(err, fmt.Errorf("gather files of %v", l))
	}
	if d.images.method == erofs.Loop || l.Pruned { // each bundle would take a loop device
		return nil, nil, nil
	}
	out, tree := *l, &snapshot.Manifest{Entries: slices.Clone(m.Entries)}
	if err := d.gather(ctx, l, tree); err != nil {
		return nil, nil, fmt.Errorf("gather files of %s: %w", l.ID, err)
	}
	out.Gathered = true
	return &out, tree, nil
}

// gather writes the bundle of l and puts the new places into m.
func (d *Erofs) gather(ctx context.Context, l *Layer, m *snapshot.Manifest) error {
	bundle := d.abs(gatheredOf(l.ID))
	at, own := ownFiles(d.abs(l.Dir), bundle, m)
	plan := layBundle(own)
	if err := d.roomFor(plan.bytes); err != nil {
		return err
	}
	if err := d.writeGathered(ctx, l, plan, own); err != nil {
		return err
	}
	for i, s := range plan.spots {
		if s.at > 0 {
			e := &m.Entries[at[i]]
			e.Source, e.SourceAt = bundle, s.at
		}
	}
	return nil
}

// ownFiles lists the files of m with content in the directory upper, each at the
// path that the tree has it at, as Gather's plan takes them, and where they are in
// m. m may name bundle as their place: that is how far an earlier try came.
func ownFiles(upper, bundle string, m *snapshot.Manifest) (at []int, own []snapshot.Change) {
	for i := range m.Entries {
		e := m.Entries[i]
		if e.Type != snapshot.TypeFile || e.Size <= 0 {
			continue
		}
		if e.Source == bundle && e.SourceAt > 0 {
			e.Source, e.SourceAt = upper+"/"+e.Path, 0
		}
		if rel, ok := strings.CutPrefix(e.Source, upper+"/"); ok && rel == e.Path && e.SourceAt == 0 {
			at, own = append(at, i), append(own, snapshot.Change{Entry: e})
		}
	}
	return at, own
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

func (d *Erofs) writeGathered(ctx context.Context, l *Layer, plan *bundlePlan, own []snapshot.Change) error {
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
	err = fillGathered(ctx, bufio.NewWriterSize(&paced{f.File, behind}, 1<<20), p, l.ID, plan, own)
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
	f      *os.File
	behind *durable.Writeback
}

func (w *paced) Write(b []byte) (int, error) {
	n, err := w.f.Write(b)
	w.behind.Wrote(w.f.Fd(), n)
	return n, err
}

// fillGathered writes a bundle from its begin to its end.
func fillGathered(ctx context.Context, w *bufio.Writer, p *placer, id snapshot.ID, plan *bundlePlan, own []snapshot.Change) error {
	if _, err := w.Write(bundleHeader(id)); err != nil {
		return err
	}
	var pad [bundleBlock]byte
	buf := make([]byte, bundleMost)
	for i, s := range plan.spots {
		if s.at == 0 || plan.first[i] != int32(i) {
			continue
		}
		if i%32 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		e := &own[i].Entry
		b := buf[:e.Size]
		if err := readOwn(p, e, b); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		if _, err := w.Write(pad[:(bundleBlock-e.Size%bundleBlock)%bundleBlock]); err != nil {
			return err
		}
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
func (d *Erofs) Prune(ctx context.Context, l *Layer, m *snapshot.Manifest) error {
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
		err = d.prune(ctx, l, m)
	}
	if err != nil {
		return fmt.Errorf("prune %s: %w", l.ID, err)
	}
	fail.Point("view.pruned")
	return nil
}

func (d *Erofs) prune(ctx context.Context, l *Layer, m *snapshot.Manifest) error {
	p, err := newPlacer(d.abs(l.Dir), false)
	if err != nil {
		return err
	}
	defer p.close()
	bundle := d.abs(gatheredOf(l.ID))
	dirs := map[string]bool{}
	for i := range m.Entries {
		e := &m.Entries[i]
		if i%64 == 0 {
			quiet.Step(ctx)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		if e.Source != bundle {
			continue
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
