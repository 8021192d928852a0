package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// RestoreSpec says what appears where.
type RestoreSpec struct {
	Snapshot snapshot.ID
	// Dir is absent or an empty directory, and not in the store's own: ErrOverlap.
	Dir string
	// Only are the paths that are restored, each with all below it and the directories
	// that lead there; none: all of the tree. One that there is not is fs.ErrNotExist.
	Only     []string
	Progress *Progress // may be nil
}

// partialDigits is how much of a snapshot's id names a restore under way.
const partialDigits = 12

// ErrNotEmpty says that something is in the way of a restore.
var ErrNotEmpty = errors.New("there is something already")

// Restore writes a snapshot's tree, or some of it, to a directory: all types of entries, hard
// links, holes, attributes, times to the nanosecond, and owners if the store
// records them. What comes out of the packs is not trusted: no chunk is written
// before its digest was found right, and nothing outside of the directory is
// touched, whatever a path says. It is synced once, at the end.
//
// The tree grows in Dir.partial-<id> beside Dir, which therefore never shows half
// of it. What a restore that was killed has left there the next one of that
// snapshot deletes, and any other leaves alone; on an error nothing is left.
//
// Crash states, in order:
//  1. until the rename: Dir is as it was, or gone if it was an empty directory;
//     Dir.partial-<id> is there.
//  2. after it: Dir is whole. The content was synced before.
func (s *Store) Restore(ctx context.Context, spec RestoreSpec) (*Info, error) {
	in, err := s.restore(ctx, &spec)
	if err != nil {
		return nil, fmt.Errorf("restore %s: %w", spec.Snapshot, err)
	}
	return in, nil
}

func (s *Store) restore(ctx context.Context, spec *RestoreSpec) (*Info, error) {
	dir, err := filepath.Abs(spec.Dir)
	if err != nil {
		return nil, err
	}
	if err := s.apart(dir); err != nil {
		return nil, err
	}
	if err := clearOf(dir); err != nil {
		return nil, err
	}
	defer s.reading()()
	release, err := s.Hold(ctx, spec.Snapshot)
	if err != nil {
		return nil, err
	}
	defer release()
	in, err := s.Lookup(spec.Snapshot)
	if err != nil {
		return nil, err
	}
	w, err := s.newWriting(ctx, spec.Snapshot)
	if err != nil {
		return nil, err
	}
	defer w.close()
	defer lean(int(in.Entries))()
	partial := dir + ".partial-" + string(spec.Snapshot[:partialDigits])
	done, err := beginPartial(partial, dir)
	if err != nil {
		return nil, err
	}
	defer done()
	fail.Point("store.restore.made")
	if spec.Progress == nil {
		spec.Progress = &Progress{}
	}
	w.progress = spec.Progress
	if len(spec.Only) > 0 {
		w.only = newSelection(spec.Only)
	} else {
		spec.Progress.Total.Store(in.TreeBytes)
	}
	if err := w.to(ctx, partial, w.parts); err != nil {
		return nil, errors.Join(err, dropPartial(partial))
	}
	fail.Point("store.restore.synced")
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) { // only if it is empty
		return nil, errors.Join(err, dropPartial(partial))
	}
	if err := durable.Rename(partial, dir); err != nil {
		return nil, errors.Join(err, dropPartial(partial))
	}
	if w.only != nil {
		in.TreeBytes, in.Entries = w.only.bytes, w.only.entries
	}
	return &in, nil
}

// apart refuses a directory in the store's own: that holds nothing but what is the
// store's, and what else is there is swept away.
func (s *Store) apart(dir string) error {
	real := dir
	if up, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil { // dir itself need not be there
		real = filepath.Join(up, filepath.Base(dir))
	}
	if within(real, s.dir) {
		return fmt.Errorf("%s lies in the store %s: %w", dir, s.dir, ErrOverlap)
	}
	return nil
}

// clearOf checks that dir is absent or an empty directory that can be replaced.
func clearOf(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return fmt.Errorf("%s: %w: a symlink to nothing", dir, ErrNotEmpty)
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s: %w, and it is no directory", dir, ErrNotEmpty)
	}
	if names, err := f.Readdirnames(1); len(names) > 0 {
		return fmt.Errorf("%s: %w, for one %q: want an empty or an absent directory", dir, ErrNotEmpty, names[0])
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	up, err := os.Lstat(filepath.Dir(dir))
	if err != nil {
		return err
	}
	if a, ok := deviceOf(fi); ok {
		if b, ok := deviceOf(up); ok && a != b {
			return fmt.Errorf("%s is a mount point, which can't be replaced as a whole: restore to a directory in it", dir)
		}
	}
	return nil
}

// dropPartial deletes what a restore has written.
func dropPartial(partial string) error {
	err := os.RemoveAll(partial)
	if err == nil {
		return nil
	}
	// Directories that their owner can't write to, without root.
	werr := filepath.WalkDir(partial, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			return os.Chmod(p, 0o700) //nolint:gosec // a directory
		}
		return err
	})
	return errors.Join(werr, os.RemoveAll(partial))
}

// writing brings a tree into a directory, by parts: neither its entries nor its index
// need be in memory as a whole.
type writing struct {
	s        *Store
	key      []byte
	all      view.Tree
	n        int // entries of all, or so
	close    func()
	find     func(snapshot.Digest) (pack.Location, bool) // where chunks are
	own      map[snapshot.Digest]bool                    // packs of the layer itself; nil: nobody asks
	open     OpenBlobFunc
	like     *beside     // a tree whose files may have some of the content; nil: none
	base     snapshot.ID // whose files may have some, too, at any path; "": none
	progress *Progress
	only     *selection // what of the tree is written; nil: all

	// Of the part that is being written:
	ix   *pack.Index
	here snapshot.Manifest // files that the host has at these paths: packs may be gone
}

// inParts calls write for one part after the other, each of which is writing.ix.
type inParts func(ctx context.Context, write func(context.Context) error) error

// writtenEntries is how many entries are written as one. Content that files of several
// parts share is decompressed for each.
const writtenEntries = 64 << 10

func (s *Store) newWriting(ctx context.Context, id snapshot.ID) (*writing, error) {
	s.mu.Lock()
	l, err := s.usableLocked(id)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	chain, err := s.wireChain(id)
	if err != nil {
		return nil, err
	}
	w := &writing{s: s, key: l.key, find: s.locateAll(chain).find, open: s.OpenRange}
	t, err := s.openTree(ctx, l)
	if err != nil {
		return nil, err
	}
	w.all, w.n, w.close = t.each(ctx), t.left(), t.close
	if err := w.standIn(ctx, l, chain); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// standIn has w look at the files of what l, which is stored only, stands on, if those
// are here and packs are not.
func (w *writing) standIn(ctx context.Context, l *layer, chain []Info) error {
	base := w.s.standIn(l, chain)
	if base == nil {
		return nil
	}
	t, err := w.s.openTree(ctx, base)
	if err != nil {
		return fmt.Errorf("base: %w", err)
	}
	whole := w.close
	w.close = func() { t.close(); whole() }
	w.like = &beside{t: t}
	return w.like.step()
}

// parts calls write for one part after the other. Content stands with the first of a
// file's names alone, all of which are in the tree.
func (w *writing) parts(ctx context.Context, write func(context.Context) error) error {
	most := w.s.part(writtenEntries)
	part := make([]snapshot.Change, 0, min(w.n, most))
	flush := func() (err error) {
		if w.ix, err = pack.Gather(w.find, part); err == nil {
			for i := range w.ix.Packs {
				w.ix.Packs[i].Own = w.own[w.ix.Packs[i].Digest]
			}
			err = write(ctx)
		}
		clear(part)
		clear(w.here.Entries)
		part, w.here.Entries = part[:0], w.here.Entries[:0]
		return err
	}
	err := w.all(func(e *snapshot.Entry) error {
		if len(part) == most {
			if err := flush(); err != nil {
				return err
			}
		}
		if w.only != nil && !w.only.take(e) {
			return nil
		}
		if err := w.note(e); err != nil {
			return err
		}
		e.Source, e.SourceAt = "", 0
		if !e.FirstLink() {
			e.Chunks = []snapshot.Chunk{}
		}
		part = append(part, snapshot.Change{Entry: *e})
		return nil
	})
	if err == nil && w.only != nil {
		err = w.only.missed()
	}
	if err != nil {
		return err
	}
	return flush()
}

// note notes where the host has the content of e, or some of it.
func (w *writing) note(e *snapshot.Entry) error {
	if e.Type != snapshot.TypeFile || e.Size == 0 || !e.FirstLink() {
		return nil
	}
	if e.Source != "" {
		w.here.Entries = append(w.here.Entries, *e)
		return nil
	}
	if w.like == nil {
		return nil
	}
	for w.like.more && snapshot.ComparePaths(w.like.e.Path, e.Path) < 0 {
		if err := w.like.step(); err != nil {
			return err
		}
	}
	if w.like.more && w.like.e.Path == e.Path {
		w.here.Entries = append(w.here.Entries, w.like.e)
	}
	return nil
}

// extract hands out all content of the part.
func (w *writing) extract(ctx context.Context, write func(i int, off int64, p []byte) error, done func(i int) error) error {
	o := w.options(ctx)
	o.Done = done
	return pack.Extract(ctx, w.ix, o, func(i int, off int64, p []byte) error {
		w.progress.Done.Add(int64(len(p)))
		return write(i, off, p)
	})
}

// options are those of extracting the part.
func (w *writing) options(ctx context.Context) pack.ExtractOptions {
	o := pack.ExtractOptions{Key: w.key, Workers: w.s.o.Workers, Open: w.open}
	if len(w.here.Entries) > 0 {
		o.Previous = previous(&w.here)
	}
	if w.base != "" {
		o.Base = func(n int, fn func(e *snapshot.Entry) error) error { return w.s.lookThrough(ctx, w.base, n, fn) }
	}
	return o
}
