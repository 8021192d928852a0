package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/quiet"
)

// appID marks a database as a store's ("roST"); user_version is its schema.
const (
	appID  = 0x726f5354
	dbName = "store.db"
	// schema 1: the first; 2: layers know what they are against where they travel;
	// 3: when layers were used and checked, and what they were before they were suspect;
	// 4: layers of local jobs may have their small files in a bundle;
	// 5: a layer may be what a chain of them was elsewhere; 6: which chain.
	schema = 6
)

// The rows. Every column that could be computed from the files is there so that
// Open reads one file only.
//
//	views    one row per view that is open, or sealed and not yet reported
//	layers   one row per layer; seq is the order in which they came to be
//	packs    which packs a layer's index names (own: it made them)
//	intents  layers whose row is gone and whose files must go
const schema1 = `
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE views (
	id TEXT PRIMARY KEY, target TEXT NOT NULL, claim BLOB, sealed INTEGER NOT NULL DEFAULT 0,
	outcome BLOB, made INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE layers (
	seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, base TEXT NOT NULL, parents TEXT NOT NULL,
	place TEXT NOT NULL, fanin INTEGER NOT NULL, imported INTEGER NOT NULL,
	state TEXT NOT NULL, synced INTEGER NOT NULL, boot TEXT NOT NULL, domain_key BLOB,
	manifest BLOB, idx BLOB, index_bytes INTEGER NOT NULL DEFAULT 0,
	stored_bytes INTEGER NOT NULL DEFAULT 0, plain_bytes INTEGER NOT NULL DEFAULT 0,
	tree_bytes INTEGER NOT NULL DEFAULT 0, entries INTEGER NOT NULL DEFAULT 0,
	disk_bytes INTEGER NOT NULL DEFAULT 0, encode_ms REAL NOT NULL DEFAULT 0,
	err TEXT NOT NULL DEFAULT '', made INTEGER NOT NULL
);
CREATE TABLE packs (
	layer TEXT NOT NULL, pos INTEGER NOT NULL, digest BLOB NOT NULL, bytes INTEGER NOT NULL,
	own INTEGER NOT NULL, PRIMARY KEY (layer, pos)
) WITHOUT ROWID;
CREATE TABLE intents (id TEXT PRIMARY KEY, place TEXT NOT NULL) WITHOUT ROWID;
`

// Before schema 2 every index was against its layer's base.
const schema2 = `
ALTER TABLE layers ADD COLUMN wire_base TEXT NOT NULL DEFAULT '';
ALTER TABLE layers ADD COLUMN fetch_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE layers SET wire_base=base, fetch_bytes=stored_bytes WHERE idx IS NOT NULL;
`

// Before schema 3 nobody noted a use; the oldest go first.
const schema3 = `
ALTER TABLE layers ADD COLUMN used INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN checked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE layers ADD COLUMN was TEXT NOT NULL DEFAULT '';
`

// Before schema 4 no place said Gathered. The rows are the same.
const schema4 = `SELECT 1;`

// Before schema 5 each layer of a chain had a row.
const schema5 = `ALTER TABLE layers ADD COLUMN below INTEGER NOT NULL DEFAULT 0;`

// Before schema 6 nobody noted the indexes of such a chain.
const schema6 = `ALTER TABLE layers ADD COLUMN chain TEXT NOT NULL DEFAULT '';`

// migrations[n] makes schema n+1 of schema n.
var migrations = [schema]string{schema1, schema2, schema3, schema4, schema5, schema6}

// openDB opens or makes the database. One connection: SQLite has one writer, and
// all that is read often is in memory. The exclusive locking mode keeps the index
// of the WAL in memory, so there is no mapped file that a full disk could tear.
func openDB(ctx context.Context, dir string) (*sql.DB, error) {
	path := filepath.Join(dir, dbName)
	fresh, err := isAbsent(path)
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	db.SetMaxIdleConns(1)
	db.SetConnMaxLifetime(0)
	if err := migrate(ctx, db); err != nil {
		db.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if fresh {
		// SQLite syncs the directory for its journals, not for the file itself.
		if err := durable.SyncDir(dir); err != nil {
			db.Close() //nolint:errcheck // the first error is the one to tell
			return nil, fmt.Errorf("sync %s: %w", dir, err)
		}
	}
	return db, nil
}

func dsn(path string) string {
	p := (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath()
	return "file:" + strings.ReplaceAll(p, "?", "%3f") + "?_txlock=immediate" +
		"&_pragma=locking_mode(EXCLUSIVE)&_pragma=synchronous(NORMAL)" +
		"&_pragma=busy_timeout(2000)&_pragma=wal_autocheckpoint(8000)"
}

func isAbsent(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return false, err
}

func migrate(ctx context.Context, db *sql.DB) error {
	var app, version int
	if err := db.QueryRowContext(ctx, "PRAGMA application_id").Scan(&app); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil {
		return err
	}
	switch {
	case app == 0 && version == 0:
	case app != appID:
		return errors.New("this is not a store's database")
	case version > schema:
		return fmt.Errorf("schema %d, this version of roost knows up to %d: %w; use that version, or another store directory",
			version, schema, snapshot.ErrNewerFormat)
	case version == schema:
		return nil
	}
	// The file remembers it. Not in dsn: of a file that has it already this would be the
	// first access, and that one makes the mapped index.
	if _, err := db.ExecContext(ctx, "PRAGMA journal_mode=WAL"); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	for _, m := range migrations[max(version, 0):] {
		if _, err := tx.ExecContext(ctx, m); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id=%d", appID)); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version=%d", schema)); err != nil {
		return err
	}
	return tx.Commit()
}

// commit runs fn in one transaction, which is durable when commit returns nil, and all
// that were committed before it. On an error this process never sees its effect; after
// a crash a later one may, if it was the sync that failed. So every row must be right in
// both cases.
func (s *Store) commit(ctx context.Context, fn func(ctx context.Context, tx *txn) error) error {
	r, number, err := s.transact(ctx, fn)
	if err != nil || r == nil {
		return err
	}
	return dbError(s.record(r, number))
}

// commitSoon is commit that does not wait for the disk. When it returns nil this
// process may die, but the power may not go: what fn did is safe from that moments
// later, and not later than whatever is committed after it.
func (s *Store) commitSoon(ctx context.Context, fn func(ctx context.Context, tx *txn) error) error {
	r, number, err := s.transact(ctx, fn)
	if err != nil || r == nil || !r.begin() {
		return err
	}
	if !s.spawn(func() { s.record(r, allOfIt) }) { //nolint:errcheck // logged, and all goes on without the log
		return dbError(s.record(r, number)) // the store is being closed
	}
	return nil
}

// allOfIt stands for whatever is the newest transaction by then.
const allOfIt = math.MaxUint64

// transact executes one transaction. When it returns nil all of it is in SQLite's log:
// durable if there is no redo log, else when number is recorded in it.
func (s *Store) transact(ctx context.Context, fn func(ctx context.Context, tx *txn) error) (r *redo, number uint64, err error) {
	quiet.Step(ctx)
	s.committing.Lock()
	defer s.committing.Unlock()
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return nil, 0, dbError(err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	t := txn{tx: tx}
	if err := fn(ctx, &t); err != nil {
		return nil, 0, dbError(err)
	}
	if s.redo != nil {
		if err := setRedo(ctx, tx, s.redo.last+1); err != nil {
			return nil, 0, dbError(err)
		}
	}
	if err := tx.Commit(); err != nil {
		return nil, 0, dbError(err)
	}
	s.commits.Add(1)
	if s.redo == nil {
		return nil, 0, nil
	}
	return s.redo, s.redo.add(t.done), nil
}

// record waits until a transaction, and with it all before, is durable. Whoever comes
// first writes what all others wait for.
func (s *Store) record(r *redo, number uint64) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if r.durable >= number || r.err != nil {
		return r.failed(number)
	}
	full, err := r.append(r.take())
	if err == nil && full {
		err = s.recordAnew(r)
	}
	if err != nil {
		r.err = err
		s.dropRedo(r)
		return err
	}
	r.log.keep()
	return nil
}

// recordAnew begins the log anew: all that there is goes into the database for good.
// The caller holds r.writing.
func (s *Store) recordAnew(r *redo) error {
	s.committing.Lock()
	defer s.committing.Unlock()
	if err := writeBack(s.onward(), s.db); err != nil {
		return err
	}
	r.take()
	r.at, r.durable = 0, r.last
	return nil
}

// onward is for what is not broken off when the store is being closed.
func (s *Store) onward() context.Context { return context.WithoutCancel(s.life) }

// openRedo brings into the database what a power cut took from it. Without room for
// the log each commit syncs the database itself.
func (s *Store) openRedo(ctx context.Context) error {
	r, err := openRedo(ctx, s.dir, s.db)
	if err == nil {
		s.redo = r
		return nil
	}
	if !isFull(err) {
		return err
	}
	s.log.Warn("no room for the redo log; commits are slower", "error", err)
	_, err = s.db.ExecContext(ctx, "PRAGMA synchronous=FULL")
	return dbError(err)
}

// dropRedo goes on with SQLite's own syncs. What the log lacks is written back at once:
// it may have been acknowledged by commitSoon. The caller holds r.writing.
func (s *Store) dropRedo(r *redo) {
	s.log.Error("the redo log can't be written; each commit waits for the file system from now on", "error", r.err)
	s.committing.Lock()
	defer s.committing.Unlock()
	r.close() //nolint:errcheck // it is of no use any more
	s.redo = nil
	if _, err := s.db.ExecContext(s.onward(), "PRAGMA synchronous=FULL"); err != nil {
		s.log.Error("store.db is not synced with each commit", "error", err)
	}
	if err := writeBack(s.onward(), s.db); err != nil {
		s.log.Error("the newest rows of store.db are durable with the next commit only", "error", err)
		return
	}
	r.durable = r.last
}

// checkpointAfter is how many commits may lie in the WAL, a few pages each, before
// it is written back at a quiet moment. Without one SQLite does it by itself, in
// somebody's commit, at 32 MB.
const checkpointAfter = 500

// checkpoint writes the WAL back. Only Run calls it, when there is nothing to sync.
func (s *Store) checkpoint(ctx context.Context) {
	s.saveUse(ctx, useEvery)
	if s.commits.Load() < checkpointAfter {
		return
	}
	quiet.Step(ctx)
	s.commits.Store(0)
	s.committing.Lock()
	r := s.redo
	s.committing.Unlock()
	var err error
	if r == nil {
		s.committing.Lock()
		defer s.committing.Unlock()
		err = writeBack(ctx, s.db)
	} else {
		r.writing.Lock()
		defer r.writing.Unlock()
		err = s.recordAnew(r)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("can't write back the log of store.db", "error", err)
	}
}

// mustCommit is commit for what must go through once it was begun: ends of views
// and deletions. It does not heed ctx's end, and on a full disk it gives up the
// reserve and tries once more.
func (s *Store) mustCommit(ctx context.Context, fn func(ctx context.Context, tx *txn) error) error {
	return s.must(ctx, s.commit, fn)
}

// mustCommitSoon is that of commitSoon.
func (s *Store) mustCommitSoon(ctx context.Context, fn func(ctx context.Context, tx *txn) error) error {
	return s.must(ctx, s.commitSoon, fn)
}

func (s *Store) must(ctx context.Context, commit func(context.Context, func(context.Context, *txn) error) error,
	fn func(ctx context.Context, tx *txn) error,
) error {
	ctx = context.WithoutCancel(ctx)
	err := askDisk(s.dir, commit(ctx, fn))
	if isFull(err) && s.reserve.give() {
		s.log.Warn("disk is full, the reserve was given up", "store", s.dir)
		err = commit(ctx, fn)
	}
	return err
}
