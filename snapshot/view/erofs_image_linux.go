package view

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view/internal/erofs"
)

// write writes the image of l to f. The inode numbers of base's image are kept if
// that can be read. The UUID is made of the image's name: no mount has two of one
// name.
func (g *imaging) write(ctx context.Context, f *os.File, l, base *Layer) error {
	o := erofs.Options{Manifest: sha256.Sum256([]byte(l.Image)), Scratch: g.scratch}
	o.Devices = append(o.Devices, g.devices...)
	t := erofs.Tree(func(visit func(*snapshot.Entry, erofs.Content) error) error {
		return g.tree(func(e *snapshot.Entry) error {
			c, err := g.place(e)
			if err != nil {
				return fmt.Errorf("place of %q: %w", e.Path, err)
			}
			return visit(e, c)
		})
	})
	if base != nil && base.Image != "" {
		if b, err := os.Open(g.abs(base.Image)); err == nil {
			defer b.Close() //nolint:errcheck // only read
			o.Base = b
		}
	}
	_, err := erofs.Write(ctx, f, o, t)
	if o.Base != nil && errors.Is(err, erofs.ErrBase) {
		// Numbers are a convenience: the image of base is checked by who mounts it.
		o.Base = nil
		_, err = erofs.Write(ctx, f, o, t)
	}
	var ee *erofs.EntryError
	if errors.As(err, &ee) && errors.Is(err, erofs.ErrTooLarge) {
		return noImage(ee)
	}
	if err != nil {
		return err
	}
	return sumImage(f, l.Key)
}

// scratch is room beside the image that is written.
func (g *imaging) scratch(bytes int64) (erofs.Scratch, error) {
	if bytes < g.scratchFrom {
		return nil, nil //nolint:nilnil // in memory
	}
	f, err := durable.Create(g.abs(trashDir))
	if err != nil {
		return nil, err
	}
	return scratchFile{f}, nil
}

// scratchFile is a file that nobody will have.
type scratchFile struct{ *durable.File }

// Close implements io.Closer.
func (f scratchFile) Close() error {
	f.Abort()
	return nil
}

// numbersOf has the image whose inode numbers the one of l keeps: that of the merge
// which l's job saw, or its base's. nil is none.
func numbersOf(l, base *Layer) *Layer {
	if l != nil && l.Image == part(l.ID, startPrefix) {
		return l
	}
	return base
}

// noImage tells of an entry that is in order but that no image can show.
func noImage(ee *erofs.EntryError) error {
	return &snapshot.UnsupportedError{Path: ee.Path, What: "file that no image can show (" + ee.Err.Error() + ")"}
}

// layer is what the image at rel makes of the layer.
func (g *imaging) layer(rel string) *Layer {
	l := &Layer{ID: g.id, Dir: part(g.id, upperPrefix), Image: rel, Counted: true, Devices: g.bundles}
	for id := range g.data {
		l.Data = append(l.Data, path.Join(viewsDir, id))
		if n := g.small[id]; n > 0 {
			if l.Small == nil {
				l.Small = map[string]int{}
			}
			l.Small[path.Join(viewsDir, id)] = n
		}
	}
	slices.Sort(l.Data)
	return l
}

// Image implements Imager.
//
// A file whose source lies in a bundle is read from there, any other in views/ by
// reference. What can't be referred to is copied into the layer once: a source
// outside of views/, one whose path is longer than the kernel takes, and those of
// the layers with the fewest files when they are too many for one mount, or have too
// many bundles for loop devices.
//
// Crash states, in order:
//  1. before the rename the file is in the trash, which Reconcile empties; copies
//     in views/<id>/o<id> are whole and used again. l is as before.
//  2. after it, what l was still shows the same: its Lowers and its old image do
//     not depend on this one, or it is the same tree made from the same sources.
func (d *Erofs) Image(ctx context.Context, l, base *Layer, m *snapshot.Manifest) (*Layer, error) {
	if m == nil {
		return nil, errNoTree
	}
	return d.ImageTree(ctx, l, base, TreeOf(m))
}

var errNoTree = errors.New("image of nothing")

// ImageTree implements Streamer.
func (d *Erofs) ImageTree(ctx context.Context, l, base *Layer, t Tree) (*Layer, error) {
	if l == nil {
		return nil, errNoTree
	}
	for _, x := range []*Layer{l, base} {
		if err := checkLayer(x); err != nil {
			return nil, err
		}
	}
	out, err := d.image(ctx, l, base, t)
	if err != nil {
		return nil, fmt.Errorf("image of %s: %w", l.ID, err)
	}
	return out, nil
}

func (d *Erofs) image(ctx context.Context, l, base *Layer, t Tree) (*Layer, error) {
	g := d.newImaging(l.ID, t)
	odd, err := g.odd(ctx, d.images.maxData, d.images.maxBundles)
	if err != nil {
		return nil, err
	}
	if err := g.checkOwn(); err != nil {
		return nil, err
	}
	if err := g.copyOdd(ctx, odd, base); err != nil {
		return nil, err
	}
	fail.Point("view.image.copied")
	out, on := g.layer(part(l.ID, imagePrefix)), numbersOf(l, base)
	out.Gathered, out.Pruned = l.Gathered, l.Pruned
	if len(odd) == 0 {
		out.Key = keyFor(g.hash.digits(), on, l.ID)
	}
	if !d.images.cache.reuse(out.Key, on, out.Image, true) {
		if err := d.writeImage(ctx, g, out, on); err != nil {
			return nil, err
		}
	} else if err := errors.Join(awaitContent(ctx, nil), checkBundles(d.abs(out.Image), d.absAll(out.Devices))); err != nil {
		return nil, err
	}
	d.images.drop(out.Image)
	d.images.cache.keep(out)
	return out, nil
}

// writeImage makes the image of out, durably.
func (d *Erofs) writeImage(ctx context.Context, g *imaging, out, on *Layer) error {
	f, err := durable.Create(d.abs(trashDir))
	if err != nil {
		return err
	}
	defer f.Abort()
	if err := g.write(ctx, f.File, out, on); err != nil {
		return err
	}
	if err := awaitContent(ctx, f.File); err != nil {
		return err
	}
	if err := checkBundles(f.Name(), d.absAll(out.Devices)); err != nil {
		return err
	}
	fail.Point("view.image.written")
	return f.Commit(d.abs(out.Image))
}

// What a fan-in costs, in nanoseconds: an image by the entries of its tree, a
// fix-up layer by the changes (BenchmarkFaninWays), and more by those whose file is
// in a bundle, where no stub leads to: they are copied.
const (
	imageEntryCost  = 1_500
	imageFixedCost  = 1_000_000
	fixupChangeCost = 25_000
	fixupCopyCost   = 50_000 // and one for each byte
	// A merge that comes a second time comes more often, and then its image is there.
	againShare = 4
)

// imageFanin decides how the merge of spec is shown: by an image of the merged
// tree, or by a fix-up layer on top of the first parent.
func (d *Overlay) imageFanin(spec Spec) (bool, error) {
	f := spec.Fanin
	switch {
	case d.images == nil || f == nil || f.Tree == nil:
		return false, nil
	case f.Key != "" || d.images.always || spec.Base != nil && d.tooHigh(spec.Base):
		return true, nil
	}
	image := imageFixedCost + imageEntryCost*int64(f.Entries)
	share := int64(1)
	if f.Again {
		share = againShare
	}
	fixup := int64(0)
	err := f.Changes(func(c *snapshot.Change) error {
		fixup += fixupChangeCost * share
		if !c.Delete && hasContent(&c.Entry) && c.Entry.SourceAt > 0 {
			fixup += (fixupCopyCost + c.Entry.Size) * share
		}
		if fixup > image {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return true, nil
	}
	return false, err
}

// startImage makes the image of the tree that a view starts from. It is not
// synced: that is the seal's business, as with all of a view. A tree for which
// something had to be copied is refused: the directory of a view can't be a data
// directory of the view itself.
//
// It makes none if there is one already, and does not ask for the tree if the caller
// knows the key of an earlier one.
func (d *Overlay) startImage(ctx context.Context, spec Spec) (*Layer, error) {
	rel := part(spec.ID, startPrefix)
	on := numbersOf(nil, spec.Base)
	if l := d.startAgain(spec, on); l != nil {
		return l, nil
	}
	g := d.newImaging(spec.ID, spec.Fanin.Tree)
	odd, err := g.odd(ctx, d.images.maxData, d.images.maxBundles)
	if err != nil {
		return nil, err
	}
	if len(odd) > 0 {
		return nil, &snapshot.UnsupportedError{Path: odd[0].Path, What: "file that no image can refer to"}
	}
	l := g.layer(rel)
	l.Key = keyFor(g.hash.digits(), on, "")
	if d.images.cache.reuse(l.Key, on, rel, false) {
		return l, nil
	}
	f, err := os.OpenFile(d.abs(rel), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // synced with the view, where errors are seen
	if err := g.write(ctx, f, l, on); err != nil {
		return nil, err
	}
	fail.Point("view.start.written")
	d.images.cache.keep(l)
	return l, nil
}

// startAgain is startImage with the image of an earlier view of the same merge. nil
// is that there is none.
func (d *Overlay) startAgain(spec Spec, on *Layer) *Layer {
	digits, _, ok := strings.Cut(spec.Fanin.Key, ".")
	if !ok {
		return nil
	}
	key := keyFor(digits, on, "")
	x := d.images.cache.find(key)
	rel := part(spec.ID, startPrefix)
	if x == nil || !d.images.cache.reuse(key, nil, rel, false) {
		return nil
	}
	l := *x
	l.ID, l.Dir, l.Image = spec.ID, part(spec.ID, upperPrefix), rel
	l.Gathered, l.Pruned = false, false
	fail.Point("view.start.linked")
	return &l
}
