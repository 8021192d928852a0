package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// maxOpenObjects is how many objects are held open until they are synced one by
// one. With more of them the whole file system is synced instead.
const maxOpenObjects = 256

// Unpack implements Driver. It makes no entry but stores content; what comes back
// can't be shown before Image. base is not looked at.
func (d *Erofs) Unpack(ctx context.Context, id snapshot.ID, base *Layer, changes []snapshot.Change,
	fill func(ctx context.Context, write WriteFunc) error, m *Meter,
) (*Layer, error) {
	spec := UnpackSpec{ID: id, Base: base, Changes: changes, Fill: fill, Meter: m}
	return d.frame().unpack(ctx, id, base, changes, func(l *Layer) error {
		return d.unpackContent(ctx, l, &spec, nil)
	})
}

// UnpackShown implements Unpacker.
//
// Crash states: as of Unpack and Image, in any order. Until it returns, views/<id>
// belongs to no layer that the store knows, and Reconcile deletes it.
func (d *Erofs) UnpackShown(ctx context.Context, spec UnpackSpec) (*Layer, error) {
	var shown *Layer
	_, err := d.frame().unpack(ctx, spec.ID, spec.Base, spec.Changes, func(l *Layer) error {
		return d.unpackContent(ctx, l, &spec, func(ctx context.Context) (err error) {
			m, err := spec.Tree()
			if err == nil {
				shown, err = d.Image(ctx, l, spec.Base, m)
			}
			return err
		})
	})
	return shown, err
}

// unpackContent has the content of l written, and beside does what beside says; nil is
// nothing.
func (d *Erofs) unpackContent(ctx context.Context, l *Layer, spec *UnpackSpec, beside func(context.Context) error) error {
	if err := checkImageable(spec.Changes); err != nil {
		return err
	}
	plan := d.planned(layBundle(spec.Changes))
	if beside != nil {
		plan.locate(d.abs(l.Dir), spec.Changes)
	}
	return d.unpackPlanned(ctx, l, spec, plan, beside)
}

// planned is p as this driver wants it.
func (d *Erofs) planned(p *bundlePlan) *bundlePlan {
	if d.o.ToLook && d.images.method == erofs.FileBacked && p.canJoin() {
		p.join()
	}
	return p
}

// unpackPlanned is unpackContent of what is planned. Of spec.Changes it knows nothing.
func (d *Erofs) unpackPlanned(ctx context.Context, l *Layer, spec *UnpackSpec, plan *bundlePlan,
	beside func(context.Context) error,
) error {
	b, err := newBundleFiles(d.abs(l.Dir), spec, plan)
	if err != nil {
		return err
	}
	defer b.close()
	fail.Point("view.unpack.names")
	g, gctx := errgroup.WithContext(ctx)
	whole := make(chan struct{})
	if beside != nil {
		g.Go(func() error { return beside(context.WithValue(gctx, contentKey{}, whole)) })
	}
	g.Go(func() error {
		if err := b.fill(gctx, spec); err != nil {
			return err
		}
		fail.Point("view.unpack.filled")
		defer close(whole)
		return b.finish()
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if spec.Later {
		return nil
	}
	return d.syncUnpacked(ctx, l, b)
}

// UnpackTree implements Streamer.
func (d *Erofs) UnpackTree(ctx context.Context, spec TreeSpec) (*Layer, Tree, error) {
	var located Tree
	var shown *Layer
	l, err := d.frame().unpack(ctx, spec.ID, spec.Base, nil, func(l *Layer) error {
		plan, err := planTree(spec.New, spec.N)
		if err != nil {
			return err
		}
		plan = d.planned(plan)
		located = plan.located(d.abs(l.Dir), spec.New)
		var beside func(context.Context) error
		if spec.Whole != nil {
			beside = func(ctx context.Context) (err error) {
				shown, err = d.ImageTree(ctx, l, spec.Base, spec.Whole(located))
				return err
			}
		}
		u := &UnpackSpec{ID: spec.ID, FillPieces: spec.Fill, Meter: spec.Meter, Later: spec.Later}
		return d.unpackPlanned(ctx, l, u, plan, beside)
	})
	if spec.Whole != nil {
		l = shown
	}
	return l, located, err
}

// planTree is layBundle and checkImageable of a tree.
func planTree(t Tree, n int) (*bundlePlan, error) {
	plan, links := newBundlePlan(n), linkGroups{}
	err := t(func(e *snapshot.Entry) error {
		one := e
		if e.Link != "" {
			kept := *e
			one = &kept
		}
		plan.add(false, e)
		return imageable(links, one)
	})
	return plan, err
}

// contentKey is where the context of an image that is made beside its content has the
// channel that is closed when that is there.
type contentKey struct{}

// awaitContent is called for an image that was written, before it is looked at whether
// all is there that it refers to. While content still comes the image is brought to
// disk, so that only what is left of that is waited for in the end; nil: it is there.
func awaitContent(ctx context.Context, image *os.File) error {
	whole, ok := ctx.Value(contentKey{}).(chan struct{})
	if !ok {
		return nil
	}
	if image != nil {
		if err := image.Sync(); err != nil {
			return err
		}
	}
	select {
	case <-whole:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// checkImageable refuses before a byte is fetched what no image could show.
func checkImageable(changes []snapshot.Change) error {
	links := linkGroups{}
	for i := range changes {
		e := &changes[i].Entry
		if changes[i].Delete {
			continue
		}
		if err := imageable(links, e); err != nil {
			return err
		}
	}
	return nil
}

// imageable checks one entry, which is kept if it is a first name.
func imageable(links linkGroups, e *snapshot.Entry) error {
	if _, err := links.first(e); err != nil {
		return fmt.Errorf("%q: %w", e.Path, err)
	}
	err := erofs.CheckEntry(e)
	var ee *erofs.EntryError
	if errors.Is(err, erofs.ErrTooLarge) && errors.As(err, &ee) {
		return noImage(ee)
	}
	return err
}

// bundleFiles are the bundle and the objects of a layer that is being unpacked.
type bundleFiles struct {
	dir     string
	plan    *bundlePlan
	meter   *Meter
	bundle  *os.File
	objects []*os.File         // the first ones, by number
	there   blockSet           // what was written of the bundle
	behind  *durable.Writeback // nil if it is synced later: the kernel begins when it likes
}

func newBundleFiles(dir string, spec *UnpackSpec, plan *bundlePlan) (_ *bundleFiles, err error) {
	b := &bundleFiles{dir: dir, plan: plan, meter: spec.Meter}
	if !spec.Later {
		b.behind = durable.NewWriteback()
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	mark, err := os.OpenFile(filepath.Join(filepath.Dir(dir), packedName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if plan.joined {
		_, err = mark.WriteString(joinedMark)
	}
	if err := errors.Join(err, mark.Close()); err != nil {
		return nil, err
	}
	if b.bundle, err = b.create(bundleName, b.plan.bytes); err != nil {
		return nil, err
	}
	b.there = newBlockSet(b.plan.bytes)
	if _, err := b.bundle.WriteAt(bundleHeader(spec.ID), 0); err != nil {
		return nil, err
	}
	b.there.add(0, bundleBlock)
	return b, b.makeObjects()
}

func (b *bundleFiles) create(name string, size int64) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(b.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(size); err != nil {
		f.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return f, nil
}

// makeObjects makes all objects, all hole.
func (b *bundleFiles) makeObjects() error {
	for i, s := range b.plan.spots {
		if s.object == 0 || b.plan.first[i] != int32(i) {
			continue
		}
		f, err := b.create(objectName(s), b.plan.sizes[i])
		if err != nil {
			return err
		}
		if len(b.objects) < maxOpenObjects {
			b.objects = append(b.objects, f)
		} else if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundleFiles) close() {
	if b.behind != nil {
		b.behind.Stop()
	}
	if b.bundle != nil {
		b.bundle.Close() //nolint:errcheck // synced before, where errors are seen
	}
	for _, f := range b.objects {
		f.Close() //nolint:errcheck // same
	}
}

// fill has the content written.
func (b *bundleFiles) fill(ctx context.Context, spec *UnpackSpec) error {
	if spec.FillPieces != nil {
		return spec.FillPieces(ctx, b.writePieces)
	}
	return spec.Fill(ctx, b.write)
}

// finish writes zeros where nothing was written: a writer may leave out zeros, and
// a bundle must not have holes.
func (b *bundleFiles) finish() error {
	var zeros []byte
	return b.there.absent(b.plan.bytes, func(off, n int64) error {
		if zeros == nil {
			zeros = make([]byte, bundleMost)
		}
		for n > 0 {
			w, err := b.bundle.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
			if err != nil {
				return err
			}
			off, n = off+int64(w), n-int64(w)
		}
		return nil
	})
}

// syncUnpacked makes an unpacked layer durable, without waiting for what others
// wrote to the file system.
func (d *Erofs) syncUnpacked(ctx context.Context, l *Layer, b *bundleFiles) error {
	if b.plan.objects > len(b.objects) {
		return d.Sync(ctx, l)
	}
	for _, f := range append(b.objects, b.bundle) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	for _, dir := range []string{b.dir, d.dir(l.ID), d.abs(viewsDir)} {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	d.held.drop(l.ID)
	fail.Point("view.synced")
	return nil
}
