package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// verifyStored reads back what a layer that is stored only brought: index,
// manifest, each pack that it names, and each chunk that it uses. checked has packs
// that were read already. What it stands on is not looked at.
func (s *Store) verifyStored(ctx context.Context, l *layer, in *Info, checked map[snapshot.Digest]bool) error {
	defer lean(int(in.Entries))()
	if err := fileDigest(s.indexPath(in.Index), "index", in.Index); err != nil {
		return err
	}
	if err := fileDigest(s.manifestPath(in.Manifest), "manifest", in.Manifest); err != nil {
		return err
	}
	for _, p := range l.packs {
		if checked[p.Digest] {
			continue
		}
		if err := fileDigest(s.packPath(p.Digest), "pack", p.Digest); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		checked[p.Digest] = true
	}
	if err := s.verifyMakes(ctx, in); err != nil {
		return err
	}
	return s.verifyChunks(ctx, l, in)
}

// verifyMakes checks that index and base make the manifest.
func (s *Store) verifyMakes(ctx context.Context, in *Info) error {
	same, err := s.makes(ctx, in)
	if same || err != nil {
		return err
	}
	// As a list it is not the same. Somebody else's index may say of hard links what
	// only the whole tree makes sense of.
	ix, err := s.readIndex(in.Index)
	if err != nil {
		return err
	}
	var base *snapshot.Manifest
	if in.WireBase != "" {
		if base, err = s.Tree(ctx, in.WireBase); err != nil {
			return err
		}
	}
	t, err := tree.Apply(base, ix.Changes)
	if err != nil {
		return err
	}
	if d, err := pack.ManifestDigest(t); err != nil || d != in.Manifest {
		return errors.Join(err, &snapshot.CorruptError{
			What: "index", Name: in.Index.String(), Why: fmt.Sprintf("it makes the tree %s, want %s", d, in.Manifest),
		})
	}
	return nil
}

// makes reports whether the manifest has, one after the other, what the base and the
// changes of the index have, each list being read once.
func (s *Store) makes(ctx context.Context, in *Info) (bool, error) {
	m := making{}
	var err error
	if m.want, err = s.openManifest(in.Manifest); err != nil {
		return false, err
	}
	defer m.want.close()
	if m.ix, err = s.openIndex(in.Index); err != nil {
		return false, err
	}
	defer m.ix.Close() //nolint:errcheck // only read
	if in.WireBase != "" {
		s.mu.Lock()
		b, err := s.usableLocked(in.WireBase)
		s.mu.Unlock()
		if err != nil {
			return false, err
		}
		t, err := s.openTree(ctx, b)
		if err != nil {
			return false, err
		}
		defer t.close()
		m.base = &beside{t: t}
		if err := m.base.step(); err != nil {
			return false, err
		}
	}
	for n := 0; ; n++ {
		if n%1024 == 0 && ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		err := m.step()
		if errors.Is(err, errUnlike) {
			return false, nil
		}
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// making goes through a manifest and what should make it.
type making struct {
	want *treeFile
	ix   *indexFile
	base *beside // nil: nothing
	in   tree.InOrder

	ch      snapshot.Change
	started bool
	ended   bool // there is no change any more
}

var errUnlike = errors.New("the index makes another list")

// step looks at one entry of the base or one change.
func (m *making) step() error {
	if !m.started {
		m.started = true
		if err := m.change(); err != nil {
			return err
		}
	}
	c := -1
	switch more := m.base != nil && m.base.more; {
	case m.ended && !more:
		return m.end()
	case m.ended:
	case !more:
		c = 1
	default:
		c = snapshot.ComparePaths(m.base.e.Path, m.ch.Entry.Path)
	}
	if c < 0 {
		if err := m.is(&m.base.e); err != nil {
			return err
		}
		return m.base.step()
	}
	if c == 0 {
		err := error(nil)
		if m.ch.Delete || m.ch.Replace || m.ch.Entry.Type != snapshot.TypeDir {
			err = m.base.over()
		} else {
			err = m.base.pass(m.ch.Entry.Type)
		}
		if err != nil {
			return err
		}
	}
	if !m.ch.Delete {
		if err := m.is(&m.ch.Entry); err != nil {
			return err
		}
	}
	return m.change()
}

// change goes to the next change.
func (m *making) change() error {
	err := m.ix.next(&m.ch)
	if errors.Is(err, io.EOF) {
		m.ended = true
		return nil
	}
	return err
}

// is compares the next entry of the manifest with what it should be.
func (m *making) is(e *snapshot.Entry) error {
	var want snapshot.Entry
	switch err := m.want.next(&want); {
	case errors.Is(err, io.EOF):
		return errUnlike
	case err != nil:
		return err
	}
	if !want.Equal(e) {
		return errUnlike
	}
	return m.in.Next(e)
}

// end is io.EOF if the manifest has come to its end as well.
func (m *making) end() error {
	var e snapshot.Entry
	if err := m.want.next(&e); err != nil {
		return err
	}
	return errUnlike
}

// verifyChunks decompresses all that the changes of a layer need and compares it with
// the chunks' digests.
func (s *Store) verifyChunks(ctx context.Context, l *layer, in *Info) error {
	x, err := s.openIndex(in.Index)
	if err != nil {
		return err
	}
	defer x.Close() //nolint:errcheck // only read
	places := pack.PlacesOf(x.Tables)
	o := pack.ExtractOptions{Key: l.key, Workers: s.o.Workers, Open: s.OpenRange}
	most := s.part(writtenEntries)
	part := make([]snapshot.Change, 0, min(x.Len(), most))
	for {
		var ch snapshot.Change
		err := x.next(&ch)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err == nil {
			part = append(part, ch)
		}
		if err == nil && len(part) < most {
			continue
		}
		ix, gerr := pack.Gather(places.Find, part)
		if gerr != nil {
			return gerr
		}
		if xerr := pack.Extract(ctx, ix, o, func(int, int64, []byte) error { return nil }); xerr != nil {
			return xerr
		}
		if err != nil {
			return nil //nolint:nilerr // the end
		}
		clear(part)
		part = part[:0]
	}
}
