package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/longpath"
)

// baseMount mounts a base read-only below the view's own directory when it is
// first asked for. done unmounts it.
func (d *Overlay) baseMount(ctx context.Context, id snapshot.ID, base *Layer) (get func() (string, error), done func() error) {
	if base == nil {
		return nil, func() error { return nil }
	}
	at := ""
	get = func() (string, error) {
		if at != "" {
			return at, nil
		}
		dir := filepath.Join(d.dir(id), baseName)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
		if err := d.show(ctx, base, dir); err != nil {
			return "", fmt.Errorf("base %s: %w", base.ID, err)
		}
		fail.Point("view.base.mounted")
		at = dir
		return at, nil
	}
	done = func() error {
		if at == "" {
			return nil
		}
		if err := d.o.unmount(context.WithoutCancel(ctx), at, d.o.SealWait); err != nil {
			return err
		}
		return os.Remove(at)
	}
	return get, done
}

// tooHigh reports whether a view on base would have too many directories.
func (d *Overlay) tooHigh(base *Layer) bool {
	const own = 3 // the upper, the fix-up layer, the empty directory or the image
	return len(base.Lowers)+own-1 > d.o.MaxLowers || len(base.Lowers)+len(base.Data)+own+1 > maxStack
}

// flatten returns the base to stand on: spec's, or a copy of its tree when the
// stack would grow too high for the kernel to be quick.
func (d *Overlay) flatten(ctx context.Context, spec Spec) (*Layer, error) {
	base := spec.Base
	if base == nil {
		return nil, nil
	}
	if !d.tooHigh(base) {
		return base, nil
	}
	rel := part(spec.ID, flatPrefix)
	if err := os.Mkdir(d.abs(rel), 0o755); err != nil {
		return nil, err
	}
	get, done := d.baseMount(ctx, spec.ID, base)
	from, err := get()
	if err == nil {
		err = cloneTree(ctx, cloneOptions{from: from, to: d.abs(rel), owners: true, meter: spec.Meter})
	}
	if err := errors.Join(err, done()); err != nil {
		return nil, err
	}
	fail.Point("view.flattened")
	return &Layer{ID: base.ID, Dir: rel, Lowers: []string{rel}}, nil
}

// fixup makes the layer that turns the tree of base into the merged tree, and
// returns what the view stands on. It holds no content but what can't be reached
// by reference: files are stubs that lead into the layers that have them.
func (d *Overlay) fixup(ctx context.Context, spec Spec, base *Layer) (*Layer, error) {
	if spec.Fanin == nil {
		return base, nil
	}
	below, done, err := d.stackOf(ctx, base)
	if err != nil {
		return nil, err
	}
	defer done()
	rel := part(spec.ID, fixupPrefix)
	dir := d.abs(rel)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	root := newRoot(spec.UID, spec.GID)
	on := &Layer{ID: spec.ID, Dir: rel, Lowers: []string{rel}}
	if base != nil {
		if root, err = rootOf(below); err != nil {
			return nil, err
		}
		on.Lowers = append(on.Lowers, base.Lowers...)
		on.Data, on.Image, on.Key, on.Devices = slices.Clone(base.Data), base.Image, base.Key, base.Devices
	}
	refs := d.newReferrer(below.lowers[:len(below.lowers)-1], on.Data)
	if err := d.writeFixup(ctx, spec, base, dir, root, refs); err != nil {
		return nil, err
	}
	fail.Point("view.fixup.made")
	on.Data = refs.data
	return on, nil
}

func (d *Overlay) writeFixup(ctx context.Context, spec Spec, base *Layer, dir string, root snapshot.Entry, refs *referrer) error {
	get, done := d.baseMount(ctx, spec.ID, base)
	w, err := newDelta(dir, root, get)
	if err != nil {
		return err
	}
	defer w.p.close()
	w.file = func(_ int, e *snapshot.Entry) error { return d.stub(ctx, w.p, refs, e, spec.Meter) }
	err = w.write(ctx, spec.Fanin.Changes)
	w.release()
	if err == nil {
		err = w.finish()
	}
	return errors.Join(err, done())
}

// stub makes e: a file without content that refers to its Source, or a copy of it
// where that can't be.
func (d *Overlay) stub(ctx context.Context, p *placer, refs *referrer, e *snapshot.Entry, m *Meter) error {
	f, err := p.create(e.Path)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // nothing in it is lost by a close
	if err := d.content(ctx, f, refs, e, m); err != nil {
		return err
	}
	return p.metaFD(f, e)
}

func (d *Overlay) content(ctx context.Context, f *os.File, refs *referrer, e *snapshot.Entry, m *Meter) error {
	if e.Size == 0 {
		return nil
	}
	if e.Source == "" {
		return &snapshot.CorruptError{What: "merged tree", Name: e.Path, Why: "its content is not on this host"}
	}
	to, ok := refs.refer(e.Source)
	if ok && e.SourceAt == 0 {
		// A source of another size, or a stub, would read short or as zeros.
		if err := checkSource(e); err != nil {
			return err
		}
		if ok = setStub(f, to); ok {
			return f.Truncate(e.Size)
		}
	}
	return copySource(ctx, f, e, m)
}

// setStub marks f as a stub that leads to redirect, or leaves it as it was: a
// file system has room for short attributes only.
func setStub(f *os.File, redirect string) bool {
	fd := int(f.Fd())
	if unix.Fsetxattr(fd, redirXattr, []byte(redirect), 0) != nil {
		return false
	}
	if unix.Fsetxattr(fd, metaXattr, nil, 0) != nil {
		unix.Fremovexattr(fd, redirXattr) //nolint:errcheck // ignored without metacopy
		return false
	}
	return true
}

func checkSource(e *snapshot.Entry) error {
	var st unix.Stat_t
	stub := false
	err := longpath.Do(e.Source, func(path string) error {
		_, err := unix.Lgetxattr(path, metaXattr, nil)
		stub = err == nil
		return unix.Lstat(path, &st)
	})
	if err != nil {
		return &os.PathError{Op: "stat", Path: e.Source, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != e.Size {
		return &snapshot.CorruptError{What: "file", Name: e.Source, Why: fmt.Sprintf("not a file of %d bytes any more", e.Size)}
	}
	if stub {
		return &snapshot.CorruptError{What: "file", Name: e.Source, Why: "it is a stub without content"}
	}
	return nil
}
