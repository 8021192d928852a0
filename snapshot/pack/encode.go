package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// LargeBytes is the size from which on EncoderOptions.Previous is asked for a file.
const LargeBytes = largeBytes

// EncoderOptions says where packs go and what is there already.
type EncoderOptions struct {
	Dir string // packs appear here, each named by its digest
	Tmp string // temporary files, on the same file system
	Key []byte // of the domain: chunk ids are keyed with it
	// Workers is how many goroutines read, and how many compress. 0 means one per
	// core.
	Workers int
	// Nice, from 1 to 19, makes reading and compressing yield to whatever else wants the
	// processors, as nice(1) does. On Linux only.
	Nice int
	// Known says where a chunk is already, in a pack of an ancestor. May be nil. It
	// is called by one goroutine at a time.
	Known func(snapshot.Digest) (Location, bool)
	// Previous returns what the base has at a path, hashed, or nil. Large files are
	// cut where those were, so that what did not change is not new. If it has a Source,
	// which should hold what Chunks say, less is read, and of chunks that changed in
	// part only that part is new. May be nil. It is called before Encode reads anything,
	// by one goroutine.
	Previous func(path string) *snapshot.Entry
	// Open reads what Known says, as ExtractOptions.Open does. With it chunks that
	// changed in part are looked at as well if Previous has no Source. May be nil.
	Open func(ctx context.Context, pack snapshot.Digest, off, n int64) (io.ReadCloser, error)
	// Seen, if set, counts content bytes as they go by, for who waits.
	Seen *atomic.Int64
	// Now is the clock that Stats.Elapsed goes by; nil is the real one.
	Now func() time.Time

	discard bool // count packs, but don't write them
}

func (o EncoderOptions) withDefaults() (EncoderOptions, error) {
	if len(o.Key) == 0 {
		return o, errors.New("encode: no domain key")
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Known == nil {
		o.Known = func(snapshot.Digest) (Location, bool) { return Location{}, false }
	}
	if o.Open != nil { // comes from the side
		var mu sync.Mutex
		known := o.Known
		o.Known = func(d snapshot.Digest) (Location, bool) {
			mu.Lock()
			defer mu.Unlock()
			return known(d)
		}
	}
	if o.Previous == nil {
		o.Previous = func(string) *snapshot.Entry { return nil }
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o, nil
}

// Encode stores the content of changes and returns the layer's index, without Base
// and Manifest. It fills Chunks of every file in changes in place; on error changes
// are as they were.
//
// A file that is not hashed is read from its Source, which must not change any
// more. Content that is hashed already is read only if neither this layer nor Known
// has its chunks, and must then match them. Names of one hard-linked file (equal
// Link) are read once. The chunks of a file are a function of its bytes and, if it
// is large, of the chunks that Previous says and of whether they can be read.
//
// When Encode returns, every own pack of the index is in Dir, synced, read back and
// verified. Crash states, in order:
//
//  1. while it runs: temporary files in Tmp, which recovery deletes, and whole
//     packs in Dir that nothing refers to. The same changes make the same packs, so
//     a repeat finds its names taken by the very same bytes.
//  2. after it returned, before the caller wrote the index down: the same.
//
// A cancelled ctx or any error leaves no temporary file; packs that are whole stay
// (as in 1). Memory is bounded by about 24 MiB per worker beside the index.
func Encode(ctx context.Context, o EncoderOptions, changes []snapshot.Change) (*Index, Stats, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, Stats{}, err
	}
	start := o.Now()
	e := newEncoder(o)
	defer e.close()
	e.expect(countContents(changes))
	if err := e.plan(changes); err != nil {
		return nil, Stats{}, fmt.Errorf("encode: %w", err)
	}
	if err := e.run(ctx); err != nil {
		return nil, Stats{}, fmt.Errorf("encode: %w", err)
	}
	if err := e.check(); err != nil {
		return nil, Stats{}, fmt.Errorf("encode: %w", err)
	}
	fail.Point("pack.encoded")
	ix, err := e.index()
	if err != nil {
		return nil, Stats{}, err
	}
	ix.Changes = changes
	e.fill(changes)
	e.stats.Stored = e.packs.stored
	e.stats.Elapsed = o.Now().Sub(start)
	return ix, e.stats, nil
}

// index makes the tables.
func (e *encoder) index() (*Index, error) {
	ix := &Index{Packs: e.packs.list, Frames: e.packs.frames}
	e.layout(ix)
	if _, err := checkTables(ix); err != nil {
		return nil, fmt.Errorf("encode: known chunks do not fit together: %w", err)
	}
	return ix, nil
}

// encoder is one run of Encode. plan fills files; then each field belongs to the
// goroutine named beside it until run returns.
type encoder struct {
	o     EncoderOptions
	files []file
	packs *packWriter // the writer's
	table             // the sequencer's
	stats Stats       // the sequencer's, Plain and New
	bufs  buffers
	open  openFiles

	// Of a Stream: its parts that are yet to come, and the linked files that were.
	more   bool
	before map[string]content // by Link
	ctimes []int64            // of the part's changes; nil: not known

	compared atomic.Int64 // bytes read to be compared with the base
}

// file is one content to store: a regular file, whatever number of names it has.
// There are as many as files, so it is small.
type file struct {
	entry  *snapshot.Entry // its first name among the changes
	chunks []snapshot.Chunk
	hashed bool
	ctime  int64     // of its source when it was looked at; 0 and less: not known
	more   *fileMore // nil for most
}

// fileMore is what few files have.
type fileMore struct {
	names  []int            // indexes of the other changes that are its names
	source where            // where entry does not say it
	todo   []snapshot.Chunk // of a hashed file: what must be read
	prev   *snapshot.Entry  // of a large file that is not hashed: what the base has
}

// with returns f.more, which there is from then on.
func (f *file) with() *fileMore {
	if f.more == nil {
		f.more = &fileMore{}
	}
	return f.more
}

// source is where to read it, with an empty path if nowhere.
func (f *file) source() where {
	if f.more != nil && f.more.source.path != "" {
		return f.more.source
	}
	w := whereIs(f.entry)
	w.ctime = f.ctime
	return w
}

func newEncoder(o EncoderOptions) *encoder {
	e := &encoder{o: o, packs: &packWriter{dir: o.Dir, tmp: o.Tmp, discard: o.discard}}
	e.init(o.Known)
	return e
}

func (e *encoder) close() {
	e.open.close()
	e.packs.abort()
}

// plan lists the files in order and finds what Known has of those that are hashed.
func (e *encoder) plan(changes []snapshot.Change) error {
	e.files = make([]file, 0, countContents(changes)) // pointers into it are kept
	linked := map[string]*file{}
	for i := range changes {
		if !hasContent(&changes[i]) {
			continue
		}
		en := &changes[i].Entry
		if was, ok := e.before[en.Link]; ok {
			if was.size != en.Size {
				return fmt.Errorf("%q and %q: names of one file, but of %d and %d bytes", en.Link, en.Path, was.size, en.Size)
			}
			en.Chunks = was.chunks
			continue
		}
		if f := linked[en.Link]; f != nil && en.Link != "" {
			if err := f.addName(i, en); err != nil {
				return err
			}
			continue
		}
		f := file{entry: en, hashed: en.Hashed(), chunks: en.Chunks}
		if e.ctimes != nil {
			f.ctime = e.ctimes[i]
		}
		e.files = append(e.files, f)
		if en.Link != "" {
			linked[en.Link] = &e.files[len(e.files)-1]
		}
	}
	return e.planReading(changes)
}

// countContents counts the changes with content.
func countContents(changes []snapshot.Change) (n int) {
	for i := range changes {
		if hasContent(&changes[i]) {
			n++
		}
	}
	return n
}

// hasContent says whether a change puts a file there that is not empty.
func hasContent(ch *snapshot.Change) bool {
	return !ch.Delete && ch.Entry.Type == snapshot.TypeFile && ch.Entry.Size != 0
}

// planReading says what must be read of hashed files, and what large ones are to be
// compared with.
func (e *encoder) planReading(changes []snapshot.Change) error {
	reading := map[snapshot.Digest]bool{}
	for i := range e.files {
		f := &e.files[i]
		readable := f.source().path != ""
		if !readable && !f.hashed {
			return fmt.Errorf("%q: %w, and nowhere to read it", f.entry.Path, errUnhashed)
		}
		if !f.hashed && f.entry.Size >= largeBytes {
			if prev := e.previous(f, changes); prev != nil {
				f.with().prev = prev
			}
		}
		for _, c := range f.chunks {
			if !e.has(c.ID, c.Len) && readable && !reading[c.ID] {
				f.with().todo = append(f.with().todo, c)
				reading[c.ID] = true
			}
			e.stats.Plain += c.Len
		}
	}
	return nil
}

// previous finds what the base has at one of f's names, or at the first name of all
// when that is not among the changes.
func (e *encoder) previous(f *file, changes []snapshot.Change) *snapshot.Entry {
	paths := []string{f.entry.Path}
	if f.more != nil {
		for _, i := range f.more.names {
			paths = append(paths, changes[i].Entry.Path)
		}
	}
	if f.entry.Link != "" {
		paths = append(paths, f.entry.Link)
	}
	for _, p := range paths {
		if prev := e.o.Previous(p); prev != nil && prev.Type == snapshot.TypeFile && len(prev.Chunks) > 0 && checkContent(prev) == nil {
			return prev
		}
	}
	return nil
}

// addName notes another name of the same hard-linked file.
func (f *file) addName(i int, en *snapshot.Entry) error {
	if en.Size != f.entry.Size {
		return fmt.Errorf("%q and %q: names of one file, but of %d and %d bytes", f.entry.Path, en.Path, f.entry.Size, en.Size)
	}
	f.with().names = append(f.more.names, i)
	if !f.hashed && en.Hashed() {
		f.hashed, f.chunks = true, en.Chunks
	}
	if f.source().path == "" {
		f.more.source = whereIs(en)
	}
	return nil
}

// check finds chunks of hashed files that nothing has.
func (e *encoder) check() error {
	for i := range e.files {
		for _, c := range e.files[i].chunks {
			if _, ok := e.place.find(&c.ID); !ok {
				return fmt.Errorf("%q: chunk %s is in no known pack, and nowhere to read it", e.files[i].entry.Path, c.ID)
			}
		}
	}
	return nil
}

// fill tells every name what its content is.
func (e *encoder) fill(changes []snapshot.Change) {
	for i := range e.files {
		f := &e.files[i]
		if f.chunks == nil {
			f.chunks = []snapshot.Chunk{} // nothing but a hole
		}
		f.entry.Chunks = f.chunks
		if f.more != nil {
			for _, i := range f.more.names {
				changes[i].Entry.Chunks = f.chunks
			}
		}
	}
}
