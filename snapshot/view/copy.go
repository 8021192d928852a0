package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Copy makes views of plain copies, as driver "copy" or "reflink". Where the file
// system can share extents, a copy costs an inode per file; elsewhere it costs the
// bytes too, and "reflink" is refused. A view is built
// in the store, moved to its target, and moved back when it is sealed.
//
// Without root it owns all it makes, owners are neither recorded nor restored, and
// what the job made unreadable is made readable when the view is sealed, with the
// real mode written beside it.
type Copy struct {
	layout
	name    string
	o       Options
	owners  bool
	super   bool // may read and chmod everything
	content contentFunc
	held    held
	// kept is changed by Resume alone, before anything else runs.
	kept kept
}

// NewCopy opens the copying driver for the store at root. It works on every
// system and file system, and as any user. One process may use a root at a time.
func NewCopy(root string, o Options) (Driver, error) {
	d, err := newCopy(NameCopy, root, o, copyContent)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func newCopy(name, root string, o Options, content contentFunc) (*Copy, error) {
	l, err := openLayout(root)
	if err != nil {
		return nil, err
	}
	o = o.withDefaults()
	super := os.Geteuid() == 0
	return &Copy{layout: l, name: name, o: o, owners: o.Owners && super, super: super, content: content}, nil
}

// Name returns "copy" or "reflink".
func (d *Copy) Name() string { return d.name }

// Prepare implements Driver.
//
// Crash states, in order:
//  1. views/<id> exists in part: Discard or Reconcile deletes it.
//  2. meta is written, the tree is still below views/<id>: the same.
//  3. the tree is at its target: meta says where, so they find it there.
func (d *Copy) Prepare(ctx context.Context, spec Spec) (*View, error) {
	return d.frame().prepare(ctx, spec, d.Discard, func(v *View) error {
		if err := sameDevice(d.root, v.Target); err != nil {
			return err
		}
		if err := d.build(ctx, spec, d.abs(v.Layer.Dir), v.Target); err != nil {
			return err
		}
		fail.Point("view.prepare.upper")
		return d.handOver(d.abs(v.Layer.Dir), v.Target)
	})
}

// handOver moves a tree to where the job expects it, an empty directory.
func (d *Copy) handOver(from, to string) error {
	if err := os.Remove(to); err != nil {
		return err
	}
	return d.move(from, to)
}

// move renames a directory whose mode may forbid its owner to do that. Its mode
// and times stay.
func (d *Copy) move(from, to string) error {
	fi, err := os.Lstat(from)
	if err != nil {
		return err
	}
	if d.super || fi.Mode().Perm()&0o200 != 0 {
		return durable.Rename(from, to)
	}
	if err := os.Chmod(from, 0o700); err != nil {
		return err
	}
	if err := durable.Rename(from, to); err != nil {
		return err
	}
	return os.Chmod(to, fi.Mode())
}

// ours reports whether the tree at m's target is the one that was put there.
func (m *copyMeta) ours() bool { return m.isAt(m.target) }

// isAt is ours for another place.
func (m *copyMeta) isAt(path string) bool {
	if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
		return false
	}
	_, ino, _, err := tree.Lstat(path, "", tree.ScanOptions{})
	var un *snapshot.UnsupportedError
	if err != nil && !errors.As(err, &un) {
		return false
	}
	return ino.Ino == m.root
}

// Seal implements Driver. A copy can't tell whether somebody still writes to it:
// the caller must know that the job's processes are gone.
//
// Crash states: before the move the tree is at its target, and Seal can be called
// again; after it, it is sealed.
func (d *Copy) Seal(ctx context.Context, v *View) error {
	if err := checkView(v); err != nil {
		return err
	}
	dir := d.abs(v.Layer.Dir)
	m, err := d.readMeta(v.ID, nil)
	if _, serr := os.Lstat(dir); serr == nil {
		if err == nil && !m.isAt(dir) { // a crash came before it was looked at
			return fmt.Errorf("seal %s: %s is not the view's directory", v.ID, dir)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	}
	if !m.ours() {
		return fmt.Errorf("seal %s: %s is not the view's directory any more", v.ID, m.target)
	}
	if !d.super {
		if err := d.openUp(ctx, v.ID, m.target); err != nil {
			return fmt.Errorf("seal %s: %w", v.ID, err)
		}
	}
	fail.Point("view.seal.readable")
	if err := d.take(ctx, m, dir); err != nil {
		return fmt.Errorf("seal %s: %w", v.ID, err)
	}
	fail.Point("view.seal.unmounted")
	return nil
}

// take moves the view's tree from its target to dir. Jobs may write to where the target is: what
// was moved is looked at where they can't, and dropped if it is something else, such as a link.
func (d *Copy) take(ctx context.Context, m *copyMeta, dir string) error {
	if err := d.move(m.target, dir); err != nil {
		return err
	}
	if m.isAt(dir) {
		return nil
	}
	return errors.Join(fmt.Errorf("%s was not the view's directory any more", m.target), d.remove(ctx, dir))
}

// Resume implements Resumer.
func (d *Copy) Resume(_ context.Context, v *View) error {
	if err := checkView(v); err != nil {
		return err
	}
	m, err := d.readMeta(v.ID, nil)
	if err != nil {
		return fmt.Errorf("resume %s: %w: %w", v.ID, snapshot.ErrNotFound, err)
	}
	if m.target != v.Target || !m.ours() {
		return fmt.Errorf("view %s is not at %s: %w", v.ID, v.Target, snapshot.ErrNotFound)
	}
	if err := d.held.keep(v.ID, d.dir(v.ID)); err != nil {
		return err
	}
	d.kept = append(d.kept, keptView{target: v.Target})
	return nil
}

// Discard implements Driver.
func (d *Copy) Discard(ctx context.Context, v *View) error {
	return d.frame().discard(ctx, v, func() error { return nil })
}

func (d *Copy) frame() frame {
	return frame{layout: d.layout, held: &d.held, log: d.o.Log, erase: d.removeID}
}

// removeID deletes all that belongs to id, wherever a crash left it.
func (d *Copy) removeID(ctx context.Context, id snapshot.ID) error {
	d.held.drop(id)
	m, err := d.readMeta(id, nil)
	if err == nil {
		if _, serr := os.Lstat(d.abs(part(id, upperPrefix))); serr != nil && m.ours() {
			if err := d.remove(ctx, m.target); err != nil {
				return err
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		d.o.Log.Warn("can't tell where a view's tree is", "view", id, "err", err)
	}
	fail.Point("view.discard.tree")
	return d.remove(ctx, d.dir(id))
}

// Locate implements Driver.
func (d *Copy) Locate(l *Layer, changes []snapshot.Change) { locate(d.layout, l, changes) }

// Mount implements Driver: by a read-only bind mount where that can be, else the
// tree is copied once more, and only good manners keep it read-only.
func (d *Copy) Mount(ctx context.Context, l *Layer, target string) (io.Closer, error) {
	if err := checkLayer(l); err != nil {
		return nil, err
	}
	t, err := makeTarget(target)
	if err != nil {
		return nil, err
	}
	if undo, ok := d.bind(ctx, d.abs(l.Dir), t); ok {
		return undo, nil
	}
	real, err := d.readModes(l.ID)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", l.ID, err)
	}
	undo := closer(func() error { return d.remove(context.WithoutCancel(ctx), t) })
	if err := cloneTree(ctx, cloneOptions{from: d.abs(l.Dir), to: t, owners: d.owners, mode: real.real, content: d.content}); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", l.ID, err), undo())
	}
	return undo, nil
}

type closer func() error

func (c closer) Close() error { return c() }

// Sync implements Driver. An error is final, as for the overlay driver.
func (d *Copy) Sync(ctx context.Context, l *Layer) error { return d.frame().sync(ctx, l) }

// Remove implements Driver.
func (d *Copy) Remove(ctx context.Context, l *Layer) error { return d.frame().remove(ctx, l) }

// Reconcile implements Driver.
func (d *Copy) Reconcile(ctx context.Context, layers, views []snapshot.ID) ([]string, error) {
	var report []string
	if err := d.endMounts(ctx, &report); err != nil {
		return report, fmt.Errorf("reconcile: %w", err)
	}
	err := d.frame().sweep(ctx, layers, views, nil, &report)
	return report, err
}
