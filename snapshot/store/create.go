package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/longpath"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// CreateSpec says what to make a snapshot of.
type CreateSpec struct {
	Dir string
	// Base is a packed snapshot of the same directory, or "". Files that nobody has
	// written to since it was created are not read, and of large ones only what
	// changed is stored.
	Base snapshot.ID
	// DomainKey keys chunk ids. With a Base it is the base's that counts.
	DomainKey []byte
	// Skip, if set, is told of what a snapshot can't keep, which is then left out.
	// Without it that is a *snapshot.UnsupportedError. It may be called from several
	// goroutines.
	Skip func(*snapshot.UnsupportedError)
	// Exclude says what is left out; nil: nothing. A Base may have been made with
	// another one.
	Exclude  *tree.Exclude
	Progress *Progress // may be nil
}

// Progress is how far something is, for who waits. It may be read at any time.
type Progress struct {
	Total atomic.Int64 // bytes; 0 while it is not known
	Done  atomic.Int64
	Files atomic.Int64 // that are to be looked at
}

// Created is a new snapshot.
type Created struct {
	Info
	New int64 // content bytes that no pack of this store had
	// Kept is how many files were known to be as in the base and were not read.
	Kept int64
}

// ErrOverlap says that a store and a directory that is saved or restored lie in each other.
var ErrOverlap = errors.New("choose directories apart from each other")

// within reports whether a path is dir, or lies in it. Both are absolute, and not links.
func within(path, dir string) bool {
	sep := string(filepath.Separator)
	return strings.HasPrefix(path+sep, strings.TrimSuffix(dir, sep)+sep)
}

// ChangedError says that a file was written to while it was read.
type ChangedError struct{ Path string }

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%q was changed while it was read: nothing was kept", e.Path)
}

// Create makes a snapshot of a directory, which nobody should write to meanwhile:
// a file that changes before it was read is a *ChangedError. What is new goes
// straight into packs. The snapshot is Packed and stored only.
//
// Chunks that a held snapshot of the same domain has are not stored again, whether
// or not it is the base; but for a few in a pack of another line (burden.go).
//
// Crash states, in order:
//  1. packs, index, manifest or stamps written, in any number: files of no row;
//     Open deletes them.
//  2. after the row: held. All that it names was synced before.
func (s *Store) Create(ctx context.Context, spec CreateSpec) (*Created, error) {
	id, err := snapshot.NewID(s.o.Rand)
	if err != nil {
		return nil, err
	}
	end, err := s.begin(id, "create")
	if err != nil {
		return nil, err
	}
	defer end()
	if spec.Progress == nil {
		spec.Progress = &Progress{}
	}
	c := creating{s: s, spec: &spec, id: id, began: s.o.Now()}
	if err := c.prepare(); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if spec.Base != "" {
		defer s.reading()()
		release, err := s.Hold(ctx, spec.Base)
		if err != nil {
			return nil, fmt.Errorf("create: base: %w", err)
		}
		defer release()
		if err := s.SyncLater(ctx, spec.Base); err != nil {
			return nil, fmt.Errorf("create: base: %w", err)
		}
	}
	out, err := c.run(ctx)
	if err != nil {
		if !c.committing {
			s.sweepUnnamed()
		}
		return nil, fmt.Errorf("create: %w", err)
	}
	s.tell()
	return out, nil
}

// creating is a Create under way.
type creating struct {
	s     *Store
	spec  *CreateSpec
	id    snapshot.ID
	began time.Time
	key   []byte

	base       *layer // nil for none
	baseStamps *stamps

	partial atomic.Bool // something was left out

	committing bool // the row may be there after a crash: what it names must stay
}

// prepare checks the spec.
func (c *creating) prepare() error {
	dir, err := filepath.Abs(c.spec.Dir)
	if err != nil {
		return err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	if within(c.s.dir, dir) {
		return fmt.Errorf("the store %s lies in the directory %s: it would hold itself: %w", c.s.dir, dir, ErrOverlap)
	}
	c.spec.Dir, c.key = dir, c.spec.DomainKey
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.spec.Base != "" {
		l, err := c.s.usableLocked(c.spec.Base)
		if err != nil {
			return fmt.Errorf("base: %w", err)
		}
		if l.info.Index.IsZero() {
			return fmt.Errorf("base %s: %w", c.spec.Base, ErrNotPacked)
		}
		c.base, c.key = l, l.key
	}
	if len(c.key) == 0 {
		return errNoKey
	}
	return nil
}

func (c *creating) run(ctx context.Context) (*Created, error) {
	if c.base != nil {
		defer lean(int(c.base.info.Entries))()
		c.baseStamps = c.s.readStamps(c.spec.Base, c.base.info.Manifest)
		if out, err := c.again(ctx); err != nil || out != nil {
			return out, err
		}
	}
	return newWhole(c).run(ctx)
}

// scanOptions are those of the directory's scan.
func (c *creating) scanOptions() tree.ScanOptions {
	o := tree.ScanOptions{Owners: c.s.o.Owners, Exclude: c.spec.Exclude}
	if c.spec.Skip != nil {
		o.Skip = func(e *snapshot.UnsupportedError) {
			c.partial.Store(true)
			c.spec.Skip(e)
		}
	}
	return o
}

// whereToLook are the layers that may have chunks: the base's first.
func (c *creating) whereToLook() []Info {
	var out []Info
	seen := map[snapshot.ID]bool{}
	if c.base != nil {
		chain, err := c.s.wireChain(c.spec.Base)
		if err == nil {
			out = chain
		}
	}
	for _, in := range out {
		seen[in.ID] = true
	}
	for _, in := range c.s.sameDomain(c.key) {
		if !seen[in.ID] {
			out = append(out, in)
		}
	}
	return out
}

// inRuns calls fn for 0 to n-1, on all cores, until there is an error.
func inRuns(ctx context.Context, n int, fn func(i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	const run = 1024
	g.SetLimit(runtime.GOMAXPROCS(0))
	for at := 0; at < n; at += run {
		g.Go(func() error {
			for i := at; i < min(at+run, n); i++ {
				if err := fn(i); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// asItWas reports whether the file at e's source is as it was when it was looked at.
func asItWas(e *snapshot.Entry, was int64) bool {
	var fi os.FileInfo
	err := longpath.Do(e.Source, func(path string) (err error) {
		fi, err = os.Lstat(path)
		return err
	})
	if err != nil || !fi.Mode().IsRegular() || fi.Size() != e.Size || fi.ModTime().UnixNano() != e.MTime {
		return false
	}
	ctime, ok := ctimeOf(fi)
	return !ok || ctime == was
}

// commit writes the row.
func (c *creating) commit(ctx context.Context, e *encoded, l *layer, kept int64) (*Created, error) {
	c.committing = true
	if err := c.s.addStored(ctx, l, e.tree); err != nil {
		return nil, err
	}
	fail.Point("store.create.row")
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	return &Created{Info: c.s.infoLocked(l), New: e.stats.New, Kept: kept}, nil
}

func (c *creating) noStamps(err error) {
	c.s.log.Warn("which files are unchanged can't be noted, the next create reads all", "snapshot", c.id, "error", err)
}

func (c *creating) layer(e *encoded, sum totals, index snapshot.Digest, indexBytes int64) *layer {
	l := storedLayer(c.s.o.BootID, c.key, e.ix)
	l.info = Info{
		ID: c.id, WireBase: e.base, State: Packed, Synced: true, Manifest: e.ix.Manifest,
		Index: index, IndexBytes: indexBytes, StoredBytes: e.stats.Stored + indexBytes,
		PlainBytes: e.stats.Plain, TreeBytes: sum.bytes, Entries: sum.entries,
		EncodeMS: e.stats.Elapsed.Seconds() * 1000,
	}
	if c.base != nil {
		l.info.Parents = []snapshot.ID{c.spec.Base}
	}
	l.info.DiskBytes = l.info.StoredBytes
	l.info.weigh(e.ix)
	return l
}

// storedLayer is a layer without a place.
func storedLayer(boot string, key []byte, ix *pack.Index) *layer {
	l := &layer{boot: boot, key: bytes.Clone(key), packs: ix.Packs, imported: true}
	l.at.Store(&view.Layer{})
	return l
}

// addStored writes the row of a stored layer, whose tree is m, and shows it. If m is nil
// it is read when it is wanted.
func (s *Store) addStored(ctx context.Context, l *layer, m *snapshot.Manifest) error {
	s.mu.Lock()
	l.seq = s.nextSeq
	s.nextSeq++
	s.mu.Unlock()
	err := s.commit(ctx, func(ctx context.Context, tx *txn) error { return s.insertLayer(ctx, tx, l) })
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	in := &l.info
	s.layers[in.ID] = l
	s.have[in.Index] = blobFile{path: s.indexPath(in.Index), bytes: in.IndexBytes}
	for _, p := range l.packs {
		if _, ok := s.have[p.Digest]; !ok {
			s.have[p.Digest] = blobFile{path: s.packPath(p.Digest), bytes: p.Bytes}
		}
	}
	if m != nil {
		s.trees.put(in.ID, m, len(m.Entries))
	}
	s.announceLocked(l)
	return nil
}

// sweepUnnamed deletes files that a Create or a Pull has left, if nothing else is
// being written. What stays is deleted by the next Open.
func (s *Store) sweepUnnamed() {
	s.mu.Lock()
	busy, want := s.packing != "" || len(s.busy) > 1, s.wantedFiles()
	s.mu.Unlock()
	if busy {
		return
	}
	var gone []snapshot.Digest
	for _, dir := range []string{"packs", "indexes", "manifests"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil {
			s.log.Warn("can't clean up, the next start does", "error", err)
			return
		}
		for _, e := range entries {
			if want[dir+"/"+e.Name()] {
				continue
			}
			removeFile(filepath.Join(s.dir, dir, e.Name()), s.log)
			if d, err := snapshot.ParseDigest(e.Name()); err == nil && dir != "manifests" {
				gone = append(gone, d)
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range gone {
		delete(s.have, d)
	}
}
