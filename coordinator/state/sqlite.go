package state

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/gofrs/flock"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// SQLite is a Store in one file. One process at a time may have it open.
type SQLite struct {
	lock *flock.Flock
	// write is one connection, so that a batch never waits for another; read are
	// several, which see the last commit.
	write, read *sql.DB
}

var _ Store = (*SQLite)(nil)

// OpenSQLite opens the state in dir, which it makes if it has to. Who has it open
// already is told by a *LockedError; a schema of a later version by an error that
// wraps snapshot.ErrNewerFormat.
//
// Every commit is durable when it returns: WAL with synchronous=FULL. A crash at
// any point leaves the last commit that returned, or the one after it.
func OpenSQLite(ctx context.Context, dir string) (*SQLite, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := acquire(dir)
	if err != nil {
		return nil, err
	}
	s := &SQLite{lock: lock}
	if err := s.open(ctx, filepath.Join(dir, "coordinator.db")); err != nil {
		s.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("coordinator's state in %s: %w", dir, err)
	}
	return s, nil
}

// acquire takes the lock of dir and writes into it who has it.
func acquire(dir string) (*flock.Flock, error) {
	name := filepath.Join(dir, "lock")
	lock := flock.New(name, flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	holder := filepath.Join(dir, "lock.holder")
	if !ok {
		b, _ := os.ReadFile(holder) //nolint:errcheck // a nicety
		if len(b) > 200 {
			b = b[:200]
		}
		return nil, &LockedError{Dir: dir, Holder: string(b)}
	}
	// Not in the lock file itself: some systems let nobody read a locked file.
	text := fmt.Sprintf("process %d: %.100q", os.Getpid(), os.Args[0])
	if err := os.WriteFile(holder, []byte(text), 0o600); err != nil {
		lock.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return lock, nil
}

func (s *SQLite) open(ctx context.Context, file string) error {
	// The file is made here so that nobody else may read it: it holds keys.
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	dsn := func(extra ...string) string {
		q := url.Values{"_pragma": append([]string{
			"journal_mode(WAL)", "synchronous(FULL)", "busy_timeout(10000)", "foreign_keys(ON)", "secure_delete(ON)",
		}, extra...)}
		return "file:" + (&url.URL{Path: filepath.ToSlash(file)}).EscapedPath() + "?" + q.Encode()
	}
	if s.write, err = sql.Open("sqlite", dsn()); err != nil {
		return err
	}
	s.write.SetMaxOpenConns(1)
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if s.read, err = sql.Open("sqlite", dsn("query_only(ON)")); err != nil {
		return err
	}
	s.read.SetMaxOpenConns(8)
	return durable.SyncDir(filepath.Dir(file))
}

// migrate makes the schema, brings an older one up to date in one transaction, or
// checks that it is one that this version knows.
func (s *SQLite) migrate(ctx context.Context) error {
	var have int
	if err := s.write.QueryRowContext(ctx, "PRAGMA user_version").Scan(&have); err != nil {
		return err
	}
	switch {
	case have == version:
		return nil
	case have > version:
		return fmt.Errorf("%w: its schema is %d, this one knows up to %d", snapshot.ErrNewerFormat, have, version)
	}
	tx, err := s.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	if _, err := tx.ExecContext(ctx, steps[have]); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "PRAGMA user_version = "+strconv.Itoa(version)); err != nil {
		return err
	}
	return tx.Commit()
}

// Close closes the database and lets go of the lock.
func (s *SQLite) Close() error {
	var errs []error
	for _, db := range []*sql.DB{s.read, s.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	// The lock goes last: whoever takes it may open the database at once.
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// mapError makes ErrFull of a full disk.
func mapError(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_FULL {
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
