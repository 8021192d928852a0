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

// A snapshot is as large as its tree, and that may have millions of entries. So it goes
// through in parts: the names are listed in a compact form, then
// of each part the files are stored, looked at again, and written into the manifest.
// What stays of a part is what the index says of it and the stamps of its files.

// partEntries is how many entries are in memory as one.
const partEntries = 16 << 10

// whole is a Create that is not the same again.
type whole struct {
	*creating
	list   pack.List
	firsts []int // of list: those that have further names
	stamps stampList
	sum    totals
	files  int    // with content
	on     *based // nil without a base

	parting
	prefix string // of every Source

	out  *pack.ManifestWriter
	keep *snapshot.Manifest // what was written to out; nil: that is too large to be kept
}

// totals are what a row says of a tree.
type totals struct{ bytes, entries int64 }

// add counts an entry of a manifest, as Manifest.Bytes does.
func (t *totals) add(e *snapshot.Entry) {
	t.entries++
	if e.FirstLink() {
		t.bytes += e.Size
	}
}

func newWhole(c *creating) *whole {
	w := &whole{
		creating: c, stamps: stampList{began: c.began},
		prefix: strings.TrimSuffix(filepath.ToSlash(c.spec.Dir), "/") + "/",
	}
	w.most, w.tell, w.check = c.s.part(partEntries), w.note, w.unchanged
	if c.base != nil {
		w.on = &based{
			anew:    c.s.chainLen(c.spec.Base) >= c.s.o.MaxChain,
			touched: map[string]bool{}, large: map[string]*snapshot.Entry{},
		}
	}
	return w
}

func (w *whole) run(ctx context.Context) (*Created, error) {
	defer w.s.named.release(w.id)
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
	defer lean(w.list.Len())()
	lo := w.s.locate(w.whereToLook())
	o := w.s.encoder(w.key, lo.find, nil)
	o.Seen, o.Open = &w.spec.Progress.Done, w.s.OpenRange
	expect := w.files
	if w.on != nil {
		o.Previous, expect = w.previous, 0
	}
	st, err := pack.NewStream(o, expect)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	e, err := w.encode(ctx, st)
	if err != nil {
		return nil, err
	}
	if burden := w.burdens(e.ix); len(burden) > 0 {
		lighter, err := pack.NewStream(unburdened(o, e.ix, burden), expect)
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
	w.firsts = firsts
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
	e := &encoded{tree: w.keep}
	if w.on != nil {
		err = w.addBased(ctx, st)
	} else {
		err = w.addAll(ctx, st)
	}
	if err != nil {
		return nil, err
	}
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
	switch {
	case w.on != nil && w.on.anew:
		e.stats.Plain -= w.on.plain // it was counted when it was new
	case w.on != nil:
		e.base, e.ix.Base = w.spec.Base, w.base.info.Manifest
	}
	w.s.named.claim(w.id, e.ix.Manifest)
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
	at := 0
	err := from.Each(func(ch *snapshot.Change) error {
		ctime := w.ctimeOf(at)
		at++
		return w.put(ctx, to, ch, nil, ctime)
	})
	if err := w.end(ctx, to, err); err != nil {
		return err
	}
	ix, stats, err := to.Finish(ctx)
	if err != nil {
		return err
	}
	ix.Base, ix.Manifest = e.ix.Base, e.ix.Manifest
	e.instead(ix, stats)
	return nil
}

// ctimeOf is that of the i-th change.
func (w *whole) ctimeOf(i int) int64 {
	if w.on != nil {
		return w.on.ctimes[i]
	}
	return w.stamps.ctime(i)
}

// addAll stores all entries, in the order in which look listed them.
func (w *whole) addAll(ctx context.Context, st *pack.Stream) error {
	at := 0
	w.beside = true
	err := w.list.Each(func(e *snapshot.Entry) error {
		at++
		return w.put(ctx, st, &snapshot.Change{Entry: *e}, nil, w.stamps.ctime(at-1))
	})
	return w.end(ctx, st, err)
}

// put puts a change into the part, or an entry that did not change.
func (w *whole) put(ctx context.Context, st *pack.Stream, ch *snapshot.Change, same *snapshot.Entry, ctime int64) error {
	if same == nil && ch.Entry.Type == snapshot.TypeFile && !ch.Delete {
		ch.Entry.Source = w.prefix + ch.Entry.Path
	}
	return w.parting.put(ctx, st, ch, same, ctime)
}

// note writes an entry into the manifest, once.
func (w *whole) note(e *snapshot.Entry) error {
	e.Source, e.SourceAt = "", 0 // a later file there may be another one
	if w.out != nil {
		if err := w.out.Append(e); err != nil {
			return err
		}
	}
	if w.keep != nil {
		w.keep.Entries = append(w.keep.Entries, *e)
	}
	return nil
}

// unchanged looks again at the files of the part: at all of them, or at those that could
// not be recognised by their ctime when they were read.
func (w *whole) unchanged(ctx context.Context, b *batch, all bool) error {
	return inRuns(ctx, len(b.part), func(i int) error {
		e := &b.part[i].Entry
		if !all && b.ctimes[i] > 0 || b.ctimes[i] == noCtime {
			return nil
		}
		if e.Type == snapshot.TypeFile && e.Size > 0 && !asItWas(e, b.ctimes[i]) {
			return &ChangedError{Path: e.Path}
		}
		return nil
	})
}

// save writes what the layer needs beside packs and manifest, then its row.
func (w *whole) save(ctx context.Context, st *pack.Stream, e *encoded) (*Created, error) {
	s := w.s
	index, indexBytes, err := s.writeIndexBy(w.id, func(out *bufio.Writer) (snapshot.Digest, error) { return st.WriteIndex(out, e.ix) })
	if err != nil {
		return nil, err
	}
	w.stamps.flags = w.stampFlags()
	if err := s.writeStampList(w.id, e.ix.Manifest, &w.stamps); err != nil {
		w.noStamps(err)
	}
	fail.Point("store.create.written")
	var kept int64
	if w.on != nil {
		kept = w.on.kept
	}
	return w.commit(ctx, e, w.layer(e, w.sum, index, indexBytes), kept)
}
