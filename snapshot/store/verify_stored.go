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
// manifest, each pack that it names, and each chunk that it uses. v has packs
// that were read already. What it stands on is not looked at.
func (s *Store) verifyStored(ctx context.Context, l *layer, in *Info, v *verified) error {
	defer lean(int(in.Entries))()
	if err := s.verifyLists(in); err != nil {
		return err
	}
	for _, p := range l.packs {
		if v.packs[p.Digest] {
			continue
		}
		if err := fileDigest(s.packPath(p.Digest), "pack", p.Digest); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		v.packs[p.Digest] = true
		v.p.Done.Add(p.Bytes)
	}
	if err := s.verifyMakes(ctx, in); err != nil {
		return err
	}
	return s.verifyChunks(ctx, l, in, v.p)
}

// verifyLists reads back index and manifest.
func (s *Store) verifyLists(in *Info) error {
	if err := fileDigest(s.indexPath(in.Index), "index", in.Index); err != nil {
		return err
	}
	return fileDigest(s.manifestPath(in.Manifest), "manifest", in.Manifest)
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
	want, err := s.openManifest(in.Manifest)
	if err != nil {
		return false, err
	}
	defer want.close()
	x, err := s.openIndex(in.Index)
	if err != nil {
		return false, err
	}
	defer x.Close() //nolint:errcheck // only read
	var e snapshot.Entry
	err = s.eachMade(ctx, in.WireBase, x, func(made *snapshot.Entry) error {
		if err := want.next(&e); errors.Is(err, io.EOF) {
			return errUnlike
		} else if err != nil {
			return err
		}
		if !e.Equal(made) {
			return errUnlike
		}
		return nil
	})
	if err == nil {
		if err = want.next(&e); errors.Is(err, io.EOF) {
			return true, nil
		} else if err == nil {
			err = errUnlike
		}
	}
	if errors.Is(err, errUnlike) {
		return false, nil
	}
	return false, err
}

var errUnlike = errors.New("the index makes another list")

// verifyChunks decompresses all that the changes of a layer need and compares it with
// the chunks' digests.
func (s *Store) verifyChunks(ctx context.Context, l *layer, in *Info, p *Progress) error {
	x, err := s.openIndex(in.Index)
	if err != nil {
		return err
	}
	defer x.Close() //nolint:errcheck // only read
	places := pack.PlacesOf(x.Tables)
	o := pack.ExtractOptions{Key: l.key, Workers: s.o.Workers, Open: s.OpenRange}
	count := func(_ int, _ int64, b []byte) error {
		p.Done.Add(int64(len(b)))
		return nil
	}
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
		if xerr := pack.Extract(ctx, ix, o, count); xerr != nil {
			return xerr
		}
		if err != nil {
			return nil //nolint:nilerr // the end
		}
		clear(part)
		part = part[:0]
	}
}
