package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/bootid"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
	"github.com/roost-ci/roost/snapshot/view"
)

// Store is one host's snapshots. Methods may be called from any goroutine.
type Store struct {
	o       Options
	dir     string
	id      snapshot.ID
	lock    *flock.Flock
	db      *sql.DB
	driver  view.Driver
	log     hclog.Logger
	reserve *reserve
	folds   bool // dir is on a file system that takes Name and name for the same
	trees   *treeCache
	located *locationCache
	longs   longTrees

	// life ends with Close; what the store started itself (tree builds) runs under
	// it and is waited for in background.
	life       context.Context //nolint:containedctx // the store's own lifetime
	end        context.CancelFunc
	background sync.WaitGroup
	running    sync.Mutex   // held by Run
	syncing    sync.Mutex   // held while a layer is brought to disk; before rows
	commits    atomic.Int64 // since the last checkpoint

	// committing is held by whoever commits, never across a wait for the disk but when the
	// redo log is begun anew. It guards redo, which is nil when each commit syncs store.db.
	// Lock order: rows, redo.writing, committing, mu.
	committing sync.Mutex
	redo       *redo

	// fewer, if set, is how many entries are gone through as one: tests want many parts.
	fewer int

	// gate is held while a view is mounted or sealed. What Run does stands aside then.
	gate quiet.Gate

	named naming // what layers without rows are going to name

	// rows is held while a layer's row is read, changed and shown, so that no change
	// is lost. Lock order: rows before mu.
	rows sync.Mutex

	// mu guards all below. It is never held across I/O or a callback; rows are
	// committed first, then shown here. Lock order: mu before trees.mu.
	mu      sync.Mutex
	views   map[snapshot.ID]*openView
	layers  map[snapshot.ID]*layer
	nextSeq int64
	busy    map[snapshot.ID]string // what is being done to a view or layer
	imports map[snapshot.ID]*importing
	have    map[snapshot.Digest]blobFile // packs and indexes on disk
	stale   []snapshot.Digest            // packs that may have become useless
	held    map[snapshot.ID]int          // by Hold: not to be removed
	swept   []Swept                      // by Open; not changed later
	useAt   time.Time                    // when uses were last written
	useNews map[snapshot.ID]struct{}     // uses that no row has yet
	first   []snapshot.ID                // to pack before others
	packing snapshot.ID                  // what the packer is at
	imaging map[snapshot.ID]bool         // layers of which an image is being made
	sealing int                          // seals and prepares under way: syncs wait
	// badSyncs is how many syncs in a row failed, badSync how the last one did.
	badSyncs int
	badSync  error
	news     []Info        // for OnChange, in order
	telling  bool          // somebody hands out news
	changed  chan struct{} // closed and replaced when a layer's state changes
	wake     chan struct{} // tells Run that there is work
	// wakeImages tells the part of Run that makes images.
	wakeImages chan struct{}
	closed     bool
	merges     merges    // that were made (fanin_again.go)
	gathering  gathering // of small files of local layers (gather.go)
}

// blobFile is a blob on disk.
type blobFile struct {
	path  string
	bytes int64
}

// subdirs are made at Open. The driver makes its own.
var subdirs = []string{"packs", "indexes", "manifests", "tmp", openDir}

// Open takes the lock, recovers what a crash left and makes the store ready. The
// directory is made if absent. *LockedError says that another process owns it;
// snapshot.ErrNewerFormat that a newer version made it. Nothing is started: Run
// does the background work.
func Open(ctx context.Context, dir string, o Options) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if o.Driver == nil {
		return nil, errors.New("store: no view driver given")
	}
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // sources begin with the real path
		return nil, fmt.Errorf("store: %w", err)
	}
	l, err := lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	s := newStore(dir, o)
	s.lock = l
	if err := s.open(ctx); err != nil {
		s.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	return s, nil
}

func newStore(dir string, o Options) *Store {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the one default
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if o.BootID == "" {
		o.BootID = bootid.Read()
	}
	if o.OnChange == nil {
		o.OnChange = func(Info) {}
	}
	if o.CacheEntries == 0 {
		o.CacheEntries = 400_000
	}
	if o.MaxChain <= 0 {
		o.MaxChain = 32
	}
	s := &Store{
		o: o, dir: dir, log: o.Log, reserve: newReserve(dir, o.ReserveBytes),
		views: map[snapshot.ID]*openView{}, layers: map[snapshot.ID]*layer{}, nextSeq: 1,
		held: map[snapshot.ID]int{}, useNews: map[snapshot.ID]struct{}{},
		busy: map[snapshot.ID]string{}, imports: map[snapshot.ID]*importing{}, imaging: map[snapshot.ID]bool{},
		have: map[snapshot.Digest]blobFile{}, changed: make(chan struct{}), wake: make(chan struct{}, 1),
		wakeImages: make(chan struct{}, 1),
	}
	s.gathering = newGathering()
	s.trees = newTreeCache(o.CacheEntries)
	s.located = newLocationCache(o.CacheEntries)
	s.life, s.end = context.WithCancel(context.Background()) //nolint:forbidigo // the store's own lifetime
	return s
}

func (s *Store) open(ctx context.Context) error {
	// Who made the directory may have been more generous.
	if err := os.Chmod(s.dir, 0o700); err != nil { //nolint:gosec // a directory
		return err
	}
	if err := durable.MkdirEach(s.dir, 0o700, subdirs...); err != nil {
		return err
	}
	openRows := func() (err error) {
		s.db, err = openDB(ctx, s.dir)
		return askDisk(s.dir, err)
	}
	err := openRows()
	if isFull(err) && s.reserve.give() {
		s.log.Warn("disk is full, the reserve was given up", "store", s.dir)
		err = openRows()
	}
	if err != nil {
		return err
	}
	s.folds = folds(s.dir)
	if err := s.openRedo(ctx); err != nil {
		return err
	}
	if err := s.loadID(ctx); err != nil {
		return err
	}
	if err := s.loadRows(ctx); err != nil {
		return err
	}
	if err := s.openDriver(); err != nil {
		return fmt.Errorf("view driver: %w", err)
	}
	if err := s.recover(ctx); err != nil {
		return err
	}
	if err := s.reserve.take(); err != nil {
		s.log.Warn("no reserve: deletion may fail on a full disk", "error", err)
	}
	return nil
}

// folds reports whether the file system that dir is on takes Name and name for the same:
// it finds the database by another name, too.
func folds(dir string) bool {
	one, err := os.Lstat(filepath.Join(dir, dbName))
	if err != nil {
		return false
	}
	two, err := os.Lstat(filepath.Join(dir, strings.ToUpper(dbName)))
	return err == nil && os.SameFile(one, two)
}

// openDriver opens the driver. What that tries needs some room, which on a full disk
// nobody could make without it.
func (s *Store) openDriver() (err error) {
	s.driver, err = s.o.Driver(s.dir)
	if isFull(err) && s.reserve.give() {
		s.log.Warn("disk is full, the reserve was given up", "store", s.dir)
		s.driver, err = s.o.Driver(s.dir)
	}
	return err
}

// Close waits for what the store started and lets go of the directory. Run must
// have returned. Open views stay mounted, as after a crash; the next Open finds them.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	s.background.Wait()
	if s.db != nil {
		s.saveUse(context.Background(), 0) //nolint:forbidigo // the last thing that is written
	}
	var errs []error
	if c, ok := s.driver.(io.Closer); ok {
		errs = append(errs, c.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.redo != nil {
		errs = append(errs, s.redo.close())
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

// ID is drawn once, when the store is made.
func (s *Store) ID() snapshot.ID { return s.id }

// Dir is the store's directory, absolute.
func (s *Store) Dir() string { return s.dir }

// Driver makes the views.
func (s *Store) Driver() view.Driver { return s.driver }

// Lookup returns what is known of a layer. For what is not held the error is a
// snapshot.ErrNotFound.
func (s *Store) Lookup(id snapshot.ID) (Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.layers[id]
	if !ok {
		return Info{}, missing("not held", id)
	}
	return s.infoLocked(l), nil
}

// List returns all layers in the order in which they were sealed or imported.
func (s *Store) List() []Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	ls := make([]*layer, 0, len(s.layers))
	for _, l := range s.layers {
		ls = append(ls, l)
	}
	slices.SortFunc(ls, bySeq)
	out := make([]Info, len(ls))
	for i, l := range ls {
		out[i] = s.infoLocked(l)
	}
	return out
}

// Views lists the views that are open and those that are sealed and not yet
// reported. Right after Open the open ones are those of an earlier process: but for
// those that are in their place they can only be discarded.
func (s *Store) Views() []OpenView {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []OpenView
	for _, v := range s.views {
		out = append(out, OpenView{ID: v.id, Claim: v.claim, Sealed: v.sealed, Outcome: v.outcome, InPlace: v.v != nil})
	}
	slices.SortFunc(out, func(a, b OpenView) int { return compareID(a.ID, b.ID) })
	return out
}

// begin claims id for one operation. The error wraps snapshot.ErrBusy.
func (s *Store) begin(id snapshot.ID, what string) (end func(), err error) {
	if _, err := snapshot.ParseID(string(id)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errClosed
	}
	if now, ok := s.busy[id]; ok {
		return nil, fmt.Errorf("%s %s: %w: %s is under way", what, id, snapshot.ErrBusy, now)
	}
	s.busy[id] = what
	return func() {
		s.mu.Lock()
		delete(s.busy, id)
		s.mu.Unlock()
	}, nil
}

var errClosed = errors.New("store is closed")

// announceLocked wakes everybody who waits for a state, and queues l for OnChange.
// The caller calls tell when it has let go of mu.
func (s *Store) announceLocked(l *layer) {
	s.news = append(s.news, s.infoLocked(l))
	s.wakeLocked()
	s.pokeLocked()
}

// wakeLocked makes those who wait for a change look again.
func (s *Store) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// tell hands out what is queued, in order. If somebody is at it already, be it
// further up this very stack, they will do it.
func (s *Store) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.telling {
		return
	}
	s.telling = true
	for len(s.news) > 0 {
		in := s.news[0]
		s.news = s.news[1:]
		s.mu.Unlock()
		s.o.OnChange(in)
		s.mu.Lock()
	}
	s.telling = false
}

// pokeLocked tells Run to look for work.
func (s *Store) pokeLocked() {
	notify(s.wake)
	notify(s.wakeImages)
}

// rel makes a path relative to the store, and reports whether it is inside.
func (s *Store) rel(path string) (string, bool) {
	if len(path) > len(s.dir)+1 && path[:len(s.dir)] == s.dir && os.IsPathSeparator(path[len(s.dir)]) {
		return filepath.ToSlash(path[len(s.dir)+1:]), true
	}
	return "", false
}

func compareID(a, b snapshot.ID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func missing(why string, ids ...snapshot.ID) error { return &MissingError{IDs: ids, Why: why} }
