package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// shownInParts reports whether verifyInParts can look at an unpacked layer, and is to.
func (s *Store) shownInParts(l *layer, in *Info) bool {
	_, shows := s.driver.(imager)
	p := l.place()
	return shows && (stacked(p) || p.Image != "") && s.isLarge("", int(in.Entries))
}

// verifyInParts is verify of a large layer that an image shows, but for its packs. No
// list of entries is in memory. pace is told of each file's bytes, and may wait.
func (s *Store) verifyInParts(ctx context.Context, l *layer, in *Info, pace func(bytes int64) error) error {
	defer lean(int(in.Entries))()
	if err := s.verifyLists(in); err != nil {
		return err
	}
	if err := s.verifyShown(ctx, l); err != nil {
		return err
	}
	brought, done, err := s.broughtBy(ctx, in)
	if err != nil {
		return err
	}
	defer done()
	t, err := s.openListed(ctx, l)
	if err != nil {
		return err
	}
	defer t.close()
	err = t.each(ctx)(func(e *snapshot.Entry) error {
		is, err := brought(e)
		if err != nil || !is || e.Type != snapshot.TypeFile || e.Size == 0 {
			return err
		}
		if err := pace(e.Size); err != nil {
			return err
		}
		return s.verifyContent(ctx, l, e)
	})
	if err != nil {
		return err
	}
	_, err = brought(nil)
	return err
}

// openListed is openLocated of what must be in order.
func (s *Store) openListed(ctx context.Context, l *layer) (*treeFile, error) {
	t, err := s.openLocated(ctx, l, true)
	var corrupt *snapshot.CorruptError
	if err != nil && !(errors.As(err, &corrupt) && corrupt.What == "manifest") {
		return nil, &snapshot.CorruptError{What: "list of sources", Name: string(l.info.ID), Why: err.Error()}
	}
	return t, err
}

// verifyShown is verifyNames.
func (s *Store) verifyShown(ctx context.Context, l *layer) error {
	t, err := s.openListed(ctx, l)
	if err != nil {
		return err
	}
	defer t.close()
	unlike := func(path string) error {
		return &snapshot.CorruptError{What: "layer", Name: string(l.info.ID), Why: fmt.Sprintf("%q is not as it was sealed", path)}
	}
	var want snapshot.Entry
	return s.lookAt(ctx, l, func(dir string) error {
		_, err := tree.Each(ctx, dir, tree.ScanOptions{Owners: s.o.Owners}, func(e *snapshot.Entry, _ *tree.Inode) error {
			if err := t.next(&want); errors.Is(err, io.EOF) {
				return unlike(e.Path)
			} else if err != nil {
				return err
			}
			if e.Link == "" && want.FirstLink() {
				e.Link = want.Link // whether it has one shows at its next name
			}
			want.Chunks, want.Source, want.SourceAt = []snapshot.Chunk{}, "", 0
			e.Chunks, e.Source, e.SourceAt = want.Chunks, "", 0
			if !want.Equal(e) {
				return unlike(e.Path)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := t.next(&want); err == nil {
			return unlike(want.Path)
		} else if !errors.Is(err, io.EOF) {
			return err
		}
		return nil
	})
}

// broughtBy returns a function that says, of one entry of a layer's tree after the
// other, whether the layer brought it, and in the end, asked for nil, whether all was
// right.
func (s *Store) broughtBy(ctx context.Context, in *Info) (brought func(e *snapshot.Entry) (bool, error), done func(), err error) {
	switch {
	case in.WireBase == in.Base:
		return s.listedBy(in)
	case in.Base == "": // unpacked as a whole, the index has less
		return func(*snapshot.Entry) (bool, error) { return true, nil }, func() {}, nil
	}
	// The index has all, also what the base brought.
	t, err := s.openBase(ctx, in.Base)
	if err != nil {
		return nil, nil, err
	}
	base := beside{t: t}
	if err := base.step(); err != nil {
		t.close()
		return nil, nil, err
	}
	return func(e *snapshot.Entry) (bool, error) {
		for e != nil && base.more && snapshot.ComparePaths(base.e.Path, e.Path) < 0 {
			if err := base.step(); err != nil {
				return false, err
			}
		}
		if e == nil || !base.more || base.e.Path != e.Path {
			return true, nil
		}
		return base.e.Source == "" || base.e.Source != e.Source || base.e.SourceAt != e.SourceAt, nil
	}, t.close, nil
}

// listedBy is broughtBy by what the index lists.
func (s *Store) listedBy(in *Info) (brought func(e *snapshot.Entry) (bool, error), done func(), err error) {
	x, err := s.openIndex(in.Index)
	if err != nil {
		return nil, nil, err
	}
	done = func() { x.Close() } //nolint:errcheck // only read
	var ch snapshot.Change
	ended := false
	step := func() error {
		err := x.next(&ch)
		if errors.Is(err, io.EOF) {
			ended = true
			return nil
		}
		return err
	}
	if err := step(); err != nil {
		done()
		return nil, nil, err
	}
	return func(e *snapshot.Entry) (bool, error) {
		for !ended && (e == nil || snapshot.ComparePaths(ch.Entry.Path, e.Path) < 0) {
			if !ch.Delete && ch.Entry.Type == snapshot.TypeFile && ch.Entry.Size > 0 {
				return false, lacks(in, ch.Entry.Path)
			}
			if err := step(); err != nil {
				return false, err
			}
		}
		if ended || ch.Entry.Path != e.Path {
			return false, nil
		}
		is := !ch.Delete
		return is, step()
	}, done, nil
}

// lacks says that a manifest has not what an index has.
func lacks(in *Info, path string) error {
	return &snapshot.CorruptError{
		What: "manifest", Name: in.Manifest.String(), Why: fmt.Sprintf("it lacks %q, which the index has", path),
	}
}
