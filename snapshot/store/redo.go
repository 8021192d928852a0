package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/internal/fail"
)

// A commit is durable by the redo log, not by SQLite's own. A sync of the WAL,
// which grows, has to wait for the file system's journal, and with it for whatever
// other jobs are writing: up to seconds while somebody's syncfs runs. The redo log
// is a file of fixed size whose blocks were written once. To write over them changes
// nothing but bytes and a time, so fdatasync has no journal to wait for. Pages go there
// whole and, where the file system can, past the page cache: a part of one would have to
// be read first, and what is in the cache is written when it is the turn of all that
// other jobs have there.
//
// SQLite runs with synchronous=NORMAL: after a power cut the newest transactions
// may be missing in it, never some from the middle. Open replays them.
//
//	redo: records from 0 on, each at a multiple of 4096 with zeros behind it, so that no
//	page that is durable is ever written again:
//	   magic "RDO1" · u32 length of the statements · u64 number · statements
//	   · u32 CRC-32C of all before
//	a statement: text · uvarint number of arguments, each a kind and its value
//	   0 NULL · 1 varint · 2 u64 bits of a float · 3 text · 4 bytes · 5 false · 6 true
//	   (text and bytes: uvarint length, bytes)
//
// Numbers are little endian. A transaction's number is that of the one before and
// 1, for ever; the row "redo" of meta has that of the newest one in the database.
// The log is begun anew when all of it is in the database for good: what is left of
// the old one has lower numbers.
//
// What is to be durable soon, but not at once, has no number and no record: its
// statements are the first in that of the next transaction.
//
// Crash states of a commit, in order:
//  1. in the WAL, not in the log: not acknowledged. It may be there or not.
//  2. in the log: durable.
const (
	redoMagic = "RDO1"
	redoPage  = 4096
	redoHead  = 4 + 4 + 8
	// redoBytes is room for some two thousand small transactions.
	redoBytes = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// redo is the log. Whoever commits has it for that time.
type redo struct {
	f    *os.File
	size int64
	at   int64 // where the next record goes
	last uint64
	page []byte      // what is written at once, at an address that is a multiple of redoPage
	owed []statement // of transactions that have no record yet
}

// openRedo opens the log and replays what the database lacks.
func openRedo(ctx context.Context, dir string, db *sql.DB) (*redo, error) {
	path := filepath.Join(dir, "redo")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("redo log: %w", err)
	}
	r := &redo{f: f, size: redoBytes}
	if err := r.open(ctx, dir, db); err != nil {
		f.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("redo log: %w", err)
	}
	if past, err := openPast(path); err == nil {
		f.Close() //nolint:errcheck // nothing is left to write
		r.f = past
	}
	return r, nil
}

func (r *redo) open(ctx context.Context, dir string, db *sql.DB) error {
	fi, err := r.f.Stat()
	if err != nil {
		return err
	}
	if err := r.replay(ctx, db, fi.Size()); err != nil {
		return err
	}
	if fi.Size() < r.size {
		// Written, not only promised: a promised block's first write is the journal's
		// business.
		if err := writeZeros(r.f, r.size); err != nil {
			return err
		}
		if err := errors.Join(r.f.Sync(), durable.SyncDir(dir)); err != nil {
			return err
		}
	}
	return nil
}

// replay brings what only the log has into the database, and finds where the log
// goes on. It stays as it is, so that all can be done again.
func (r *redo) replay(ctx context.Context, db *sql.DB, size int64) error {
	err := db.QueryRowContext(ctx, "SELECT CAST(value AS INTEGER) FROM meta WHERE key='redo'").Scan(&r.last)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return dbError(err)
	}
	var before uint64
	for r.at < size {
		number, stmts, length, err := readRecord(r.f, r.at)
		if err != nil {
			return err
		}
		if length == 0 || before != 0 && number != before+1 {
			break
		}
		before = number
		r.at += pages(length)
		if number <= r.last {
			continue
		}
		if number != r.last+1 {
			return fmt.Errorf("it begins with transaction %d, store.db ends with %d: one of them is not of this store", number, r.last)
		}
		if err := apply(ctx, db, number, stmts); err != nil {
			return fmt.Errorf("transaction %d: %w", number, err)
		}
		r.last = number
		fail.Point("store.redo.replayed")
	}
	if before != r.last {
		// The database is ahead: the log was begun anew, or given up.
		r.at = 0
	}
	// What no record has, since it was to be durable soon, may be in the WAL alone, and
	// what comes now may stand on it.
	return writeBack(ctx, db)
}

// readRecord returns length 0 where there is no whole record.
func readRecord(f io.ReaderAt, at int64) (number uint64, stmts []statement, length int64, err error) {
	var head [redoHead]byte
	if _, err := f.ReadAt(head[:], at); err != nil {
		return 0, nil, 0, noEOF(err)
	}
	n := int64(binary.LittleEndian.Uint32(head[4:]))
	if string(head[:4]) != redoMagic || n > redoBytes {
		return 0, nil, 0, nil
	}
	b := make([]byte, redoHead+n+4)
	if _, err := f.ReadAt(b, at); err != nil {
		return 0, nil, 0, noEOF(err)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return 0, nil, 0, nil
	}
	if stmts, err = decodeStatements(b[redoHead:end]); err != nil {
		return 0, nil, 0, fmt.Errorf("record at %d: %w", at, err)
	}
	return binary.LittleEndian.Uint64(b[8:]), stmts, int64(len(b)), nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func pages(n int64) int64 { return (n + redoPage - 1) / redoPage * redoPage }

// apply executes one transaction of the log.
func apply(ctx context.Context, db *sql.DB, number uint64, stmts []statement) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return dbError(err)
	}
	defer tx.Rollback() //nolint:errcheck // after Commit it does nothing
	for _, st := range stmts {
		if _, err := tx.ExecContext(ctx, st.query, st.args...); err != nil {
			return dbError(err)
		}
	}
	if err := setRedo(ctx, tx, number); err != nil {
		return dbError(err)
	}
	return dbError(tx.Commit())
}

func setRedo(ctx context.Context, tx *sql.Tx, number uint64) error {
	_, err := tx.ExecContext(ctx, "INSERT INTO meta (key, value) VALUES ('redo', ?) ON CONFLICT(key) DO UPDATE SET value=excluded.value",
		int64(number))
	return err
}

// writeBack makes the database durable without its WAL.
func writeBack(ctx context.Context, db *sql.DB) error {
	var busy, frames, done int
	err := db.QueryRowContext(ctx, "PRAGMA wal_checkpoint(FULL)").Scan(&busy, &frames, &done)
	if err == nil && (busy != 0 || frames != done) {
		err = errors.New("the WAL can't be written back: somebody else has the database open")
	}
	return dbError(err)
}

// append makes a committed transaction durable. An error is final: the log is not
// to be written to again.
func (r *redo) append(ctx context.Context, db *sql.DB, number uint64, done []statement) error {
	rec := make([]byte, redoHead, redoPage)
	rec = appendStatements(rec, r.owed)
	rec = appendStatements(rec, done)
	copy(rec, redoMagic)
	binary.LittleEndian.PutUint32(rec[4:], uint32(len(rec)-redoHead))
	binary.LittleEndian.PutUint64(rec[8:], number)
	rec = binary.LittleEndian.AppendUint32(rec, crc32.Checksum(rec, castagnoli))
	if r.at+pages(int64(len(rec))) > r.size {
		// All before, and this one, goes into the database for good.
		if err := writeBack(ctx, db); err != nil {
			return err
		}
		r.at, r.last, r.owed = 0, number, nil
		return nil
	}
	if err := r.write(rec); err != nil {
		return fmt.Errorf("redo log: %w", err)
	}
	fail.Point("store.redo.written")
	if err := dataSync(r.f); err != nil {
		return fmt.Errorf("redo log: %w", err)
	}
	r.at += pages(int64(len(rec)))
	r.last, r.owed = number, nil
	return nil
}

// write puts a record into whole pages at r.at.
func (r *redo) write(rec []byte) error {
	n := int(pages(int64(len(rec))))
	if len(r.page) < n {
		b := make([]byte, n+redoPage)
		r.page = b[redoPage-int(uintptr(unsafe.Pointer(&b[0]))%redoPage):][:n]
	}
	clear(r.page[copy(r.page, rec):n])
	_, err := r.f.WriteAt(r.page[:n], r.at)
	return err
}
