package store

import (
	"bufio"
	"context"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
)

// A snapshot on no base is as large as its tree, and that may have millions of
// entries. So it goes through in parts: the names are listed in a compact form, then
// of each part the files are stored, looked at again, and written into the manifest.
// What stays of a part is what the index says of it and the stamps of its files.

// partEntries is how many entries are in memory as one.
const partEntries = 16 << 10

// whole is a Create without a base under way.
type whole struct {
	*creating
	list   pack.List
	stamps stampList
	sum    totals
	files  int // with content

	part   []snapshot.Change
	ctimes []int64 // of the part's entries
	prefix string  // of every Source

	out  *pack.ManifestWriter
	keep *snapshot.Manifest // what was written to out; nil: that is too large to be kept
}

// totals are what a row says of a tree.
type totals struct{ bytes, entries int64 }

func totalsOf(m *snapshot.Manifest) totals { return totals{m.Bytes(), int64(len(m.Entries))} }

func newWhole(c *creating) *whole {
	return &whole{
		creating: c, stamps: stampList{began: c.began},
		prefix: strings.TrimSuffix(filepath.ToSlash(c.spec.Dir), "/") + "/",
	}
}

func (w *whole) run(ctx context.Context) (*Created, error) {
	if err := w.look(ctx); err != nil {
		return nil, err
	}
	return w.store(ctx)
}

// store makes a snapshot of what is listed.
func (w *whole) store(ctx context.Context) (*Created, error) {
	if w.list.Len() <= w.s.o.CacheEntries {
		w.keep = &snapshot.Manifest{Entries: make([]snapshot.Entry, 0, w.list.Len())}
	}
	lo := w.s.locate(w.whereToLook())
	o := w.s.encoder(w.key, lo.find, nil)
	o.Seen, o.Open = &w.spec.Progress.Done, w.s.OpenRange
	st, err := pack.NewStream(o, w.files)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	e, err := w.encode(ctx, st)
	if err != nil {
		return nil, err
	}
	if burden := w.burdens(e.ix); len(burden) > 0 {
		lighter, err := pack.NewStream(unburdened(o, e.ix, burden), w.files)
		if err != nil {
			return nil, err
		}
		defer lighter.Close()
		if err := w.encodeAgain(ctx, st, lighter, e); err != nil {
			return nil, err
		}
		st = lighter
	}
	fail.Point("store.create.encoded")
	lo.forget()
	return w.save(ctx, st, e)
}

// look lists what the directory has.
func (w *whole) look(ctx context.Context) error {
	firsts, err := tree.Each(ctx, w.spec.Dir, w.scanOptions(), func(e *snapshot.Entry, in *tree.Inode) error {
		w.sum.entries++
		w.stamps.add(in)
		if e.Type == snapshot.TypeFile {
			w.spec.Progress.Files.Add(1)
			if e.Link == "" { // what has one comes behind the first name of its file
				w.spec.Progress.Total.Add(e.Size)
				w.sum.bytes += e.Size
				w.files++
			}
		}
		return w.list.Append(e)
	})
	w.list.SetFirsts(firsts)
	return err
}

// encode stores all files and the manifest.
func (w *whole) encode(ctx context.Context, st *pack.Stream) (*encoded, error) {
	f, err := durable.Create(filepath.Join(w.s.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	defer f.Abort()
	buf := bufio.NewWriterSize(f, 1<<20)
	if w.out, err = pack.NewManifestWriter(buf, w.list.Len()); err != nil {
		return nil, err
	}
	if err := w.addAll(ctx, st, w.list.Each); err != nil {
		return nil, err
	}
	e := &encoded{tree: w.keep}
	if e.ix, e.stats, err = st.Finish(ctx); err != nil {
		return nil, err
	}
	if e.ix.Manifest, err = w.out.Close(); err != nil {
		return nil, err
	}
	if err := buf.Flush(); err != nil {
		return nil, err
	}
	w.out, w.keep, w.list = nil, nil, pack.List{}
	name := w.s.manifestPath(e.ix.Manifest)
	if absent, err := isAbsent(name); err != nil {
		return nil, err
	} else if absent {
		if err := f.Commit(name); err != nil {
			return nil, err
		}
	}
	return e, fileDigest(name, "manifest", e.ix.Manifest)
}

// encodeAgain stores again, by to, what from has in packs that to does not know. Both
// have the same changes.
func (w *whole) encodeAgain(ctx context.Context, from, to *pack.Stream, e *encoded) error {
	each := func(fn func(*snapshot.Entry) error) error {
		return from.Each(func(ch *snapshot.Change) error { return fn(&ch.Entry) })
	}
	if err := w.addAll(ctx, to, each); err != nil {
		return err
	}
	ix, stats, err := to.Finish(ctx)
	if err != nil {
		return err
	}
	ix.Manifest = e.ix.Manifest
	e.instead(ix, stats)
	return nil
}

// addAll stores all entries, in the order in which look listed them.
func (w *whole) addAll(ctx context.Context, st *pack.Stream, each func(fn func(*snapshot.Entry) error) error) error {
	at := 0
	err := each(func(e *snapshot.Entry) error {
		at++
		return w.add(ctx, st, e, w.stamps.ctime(at-1))
	})
	if err != nil {
		return err
	}
	return w.flush(ctx, st)
}

// add puts an entry into the part.
func (w *whole) add(ctx context.Context, st *pack.Stream, e *snapshot.Entry, ctime int64) error {
	if len(w.part) == partEntries {
		if err := w.flush(ctx, st); err != nil {
			return err
		}
	}
	if e.Type == snapshot.TypeFile {
		e.Source = w.prefix + e.Path
	}
	w.part, w.ctimes = append(w.part, snapshot.Change{Entry: *e}), append(w.ctimes, ctime)
	return nil
}

// flush stores the part, and forgets it.
func (w *whole) flush(ctx context.Context, st *pack.Stream) error {
	err := st.Add(ctx, w.part)
	if changed := w.unchanged(ctx); ctx.Err() == nil && changed != nil {
		err = changed // be it the reason or not
	}
	if err != nil {
		return err
	}
	for i := range w.part {
		e := &w.part[i].Entry
		e.Source = "" // a later file there may be another one
		if w.out != nil {
			if err := w.out.Append(e); err != nil {
				return err
			}
		}
		if w.keep != nil {
			w.keep.Entries = append(w.keep.Entries, *e)
		}
	}
	clear(w.part)
	w.part, w.ctimes = w.part[:0], w.ctimes[:0]
	return nil
}

// unchanged looks again at the files of the part.
func (w *whole) unchanged(ctx context.Context) error {
	return inRuns(ctx, len(w.part), func(i int) error {
		e := &w.part[i].Entry
		if e.Type == snapshot.TypeFile && e.Size > 0 && !asItWas(e, w.ctimes[i]) {
			return &ChangedError{Path: e.Path}
		}
		return nil
	})
}

// save writes what the layer needs beside packs and manifest, then its row.
func (w *whole) save(ctx context.Context, st *pack.Stream, e *encoded) (*Created, error) {
	s := w.s
	index, indexBytes, err := s.writeIndexBy(func(out *bufio.Writer) (snapshot.Digest, error) { return st.WriteIndex(out, e.ix) })
	if err != nil {
		return nil, err
	}
	w.stamps.flags = w.stampFlags()
	if err := s.writeStampList(w.id, e.ix.Manifest, &w.stamps); err != nil {
		w.noStamps(err)
	}
	fail.Point("store.create.written")
	return w.commit(ctx, e, w.layer(e, w.sum, index, indexBytes), 0)
}
