package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// treeFile is a tree that is read entry by entry.
type treeFile struct {
	r *pack.ManifestReader
	f *os.File
	d snapshot.Digest

	sources   *sourceReader // nil: the manifest says all
	relocator *relocator    // nil: no file has moved

	m  *snapshot.Manifest // instead of a file: a tree that is in memory
	at int
}

// openManifest begins to read a manifest of this store, which was found to be the one
// asked for; at its end it is found to be that once more. Its files have no Source.
func (s *Store) openManifest(d snapshot.Digest) (*treeFile, error) {
	if err := fileDigest(s.manifestPath(d), "manifest", d); err != nil {
		return nil, err
	}
	return s.beginManifest(d)
}

// beginManifest is openManifest for who undoes all that was done by it if its end is not
// reached: whether it is the one asked for shows there alone.
func (s *Store) beginManifest(d snapshot.Digest) (*treeFile, error) {
	f, size, err := openSized(s.manifestPath(d))
	if err != nil {
		return nil, lost("manifest", d, err)
	}
	t := &treeFile{f: f, d: d}
	if t.r, err = pack.NewManifestReader(bufio.NewReaderSize(f, 1<<20), size); err != nil {
		f.Close() //nolint:errcheck // only read
		return nil, fmt.Errorf("manifest %s: %w", d, err)
	}
	return t, nil
}

// openTree begins to read the tree of a packed layer: from the manifest, and the list of
// sources if there is one, if the tree is large or the manifest says all, and the tree is
// not in memory anyhow.
func (s *Store) openTree(ctx context.Context, l *layer) (*treeFile, error) {
	s.mu.Lock()
	id, stored, entries := l.info.ID, l.stored(), int(l.info.Entries)
	packed := !l.info.Index.IsZero()
	s.mu.Unlock()
	if m, ok := s.trees.get(id); ok && stored {
		return &treeFile{m: m}, nil
	} else if !ok && (stored || packed && s.isLarge("", entries)) {
		t, err := s.openLocated(ctx, l, true)
		if err == nil || stored {
			return t, err
		}
		s.log.Warn("a tree can't be read from its files, making it anew", "snapshot", id, "error", err)
		if t, err = s.openFound(ctx, l); err == nil {
			return t, nil
		}
	}
	m, err := s.Tree(ctx, id)
	if err != nil {
		return nil, err
	}
	return &treeFile{m: m}, nil
}

// openLocated reads a packed layer's manifest, and beside it where its files are: at
// the places that they have by now, if that is wanted of those that it has from others.
func (s *Store) openLocated(ctx context.Context, l *layer, relocated bool) (*treeFile, error) {
	s.mu.Lock()
	id, d, stored := l.info.ID, l.info.Manifest, l.stored()
	s.mu.Unlock()
	t, err := s.openManifest(d)
	if err != nil || stored {
		return t, err
	}
	b, err := readSummed(s.srcPath(id), srcMagic)
	if err == nil {
		t.sources, err = s.newSourceReader(b, d)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	if relocated {
		t.relocator = s.newRelocator(ctx, id)
	}
	return t, nil
}

// next fills in e with the next entry; io.EOF behind the last one says that all was
// right.
func (t *treeFile) next(e *snapshot.Entry) error {
	if t.m != nil {
		if t.at == len(t.m.Entries) {
			return io.EOF
		}
		*e = t.m.Entries[t.at]
		t.at++
		return nil
	}
	err := t.r.Next(e)
	switch {
	case err == nil:
		return t.locate(e)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("manifest %s: %w", t.d, err)
	case t.r.Digest() != t.d:
		return &snapshot.CorruptError{What: "manifest", Name: t.d.String(), Why: "its digest is " + t.r.Digest().String()}
	}
	if t.sources != nil {
		if err := t.sources.end(); err != nil {
			return err
		}
	}
	return err
}

// locate fills in where the content of e is.
func (t *treeFile) locate(e *snapshot.Entry) error {
	if t.sources == nil {
		return nil
	}
	if err := t.sources.next(e); err != nil {
		return err
	}
	if t.relocator != nil {
		t.relocator.relocate(e)
	}
	return nil
}

// each goes through what is left, once, and checks what tree.InOrder can.
func (t *treeFile) each(ctx context.Context) view.Tree {
	return func(fn func(e *snapshot.Entry) error) error {
		if t.m != nil {
			return tree.Of(&snapshot.Manifest{Entries: t.m.Entries[t.at:]})(fn)
		}
		var in tree.InOrder
		var e snapshot.Entry // one for all: fn has it until it returns
		for n := 0; ; n++ {
			if n%1024 == 0 && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			e = snapshot.Entry{}
			if err := t.next(&e); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := in.Next(&e); err != nil {
				return err
			}
			if err := fn(&e); err != nil {
				return err
			}
		}
	}
}

// left is how many entries are to come.
func (t *treeFile) left() int {
	if t.m != nil {
		return len(t.m.Entries) - t.at
	}
	return t.r.Len()
}

func (t *treeFile) close() {
	if t.f != nil {
		t.f.Close() //nolint:errcheck // only read
	}
	if t.relocator != nil {
		t.relocator.close()
	}
}
