package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"
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
//	   magic "RDO2" · u32 length of the statements · u64 number · u64 mark of the record
//	   before · u64 mark · statements · u32 CRC-32C of all before
//	a statement: text · uvarint number of arguments, each a kind and its value
//	   0 NULL · 1 varint · 2 u64 bits of a float · 3 text · 4 bytes · 5 false · 6 true
//	   (text and bytes: uvarint length, bytes)
//
// Numbers are little endian. A transaction's number is that of the one before and
// 1, for ever; the row "redo" of meta has that of the newest one in the database.
// The log is begun anew when all of it is in the database for good: what is left of
// the old one has lower numbers.
//
// Several records are written at once, and a power cut may leave a later one of them
// without an earlier one. Nobody was told of either, and when other records take the place
// of the earlier one, the later one must not be read behind them. So a record has a mark
// that is drawn for it alone, and names that of the record before.
//
// Records are written in the order of their transactions, by one at a time, who takes
// all that wait: nobody holds up the next transaction with the disk. So a transaction
// is durable when it or any later one is acknowledged by commit.
//
// Crash states of a transaction, in order:
//  1. in the WAL, not in the log: it survives the process, which is all that commitSoon
//     says. A power cut takes it, or does not, and with it all that came after it.
//  2. in the log: durable, which is what commit says.
const (
	redoMagic = "RDO2"
	redoPage  = 4096
	redoHead  = 4 + 4 + 8 + 8 + 8
	// redoBytes is room for some two thousand small transactions.
	redoBytes = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// redo is the log.
type redo struct {
	f    *os.File
	size int64
	last uint64 // the newest transaction in the database; guarded by Store.committing

	// writing is held by whoever writes records, before Store.committing. It guards these.
	writing sync.Mutex
	at      int64  // where the next record goes
	mark    uint64 // of the record before it
	durable uint64 // the newest transaction that a power cut leaves
	page    []byte // what is written at once, at an address that is a multiple of redoPage
	err     error  // why the log was given up
	log     keptLog

	// mu guards what has no record yet. It is held for moments.
	mu      sync.Mutex
	waiting []record
	going   bool // somebody will write it who was not told to wait
}

// record is a transaction that is in the database.
type record struct {
	number uint64
	done   []statement
	// after is the mark of the record before, mark its own; both are for the log alone.
	after, mark uint64
}

// openRedo opens the log and replays what the database lacks.
func openRedo(ctx context.Context, dir string, db *sql.DB) (*redo, error) {
	path := filepath.Join(dir, "redo")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("redo log: %w", err)
	}
	r := &redo{f: f, size: redoBytes, log: keptLog{path: filepath.Join(dir, "store.db-wal")}}
	if err := r.open(ctx, dir, db); err != nil {
		f.Close() //nolint:errcheck // the first error is the one to tell
		return nil, fmt.Errorf("redo log: %w", err)
	}
	if past, err := openPast(path); err == nil {
		f.Close() //nolint:errcheck // nothing is left to write
		r.f = past
	}
	r.log.keep()
	return r, nil
}

func (r *redo) close() error {
	r.log.close()
	return r.f.Close()
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
		rec, length, err := readRecord(r.f, r.at)
		if err != nil {
			return err
		}
		if length == 0 || before != 0 && (rec.number != before+1 || rec.after != r.mark) {
			break
		}
		before, r.mark = rec.number, rec.mark
		r.at += pages(length)
		if rec.number <= r.last {
			continue
		}
		if rec.number != r.last+1 {
			return fmt.Errorf("it begins with transaction %d, store.db ends with %d: one of them is not of this store", rec.number, r.last)
		}
		if err := apply(ctx, db, rec.number, rec.done); err != nil {
			return fmt.Errorf("transaction %d: %w", rec.number, err)
		}
		r.last = rec.number
		fail.Point("store.redo.replayed")
	}
	if before != r.last {
		// The database is ahead: the log was begun anew, or given up.
		r.at = 0
	}
	// What no record has, as its process died first, may be in the WAL alone, and what
	// comes now may stand on it.
	r.durable = r.last
	return writeBack(ctx, db)
}

// readRecord returns length 0 where there is no whole record.
func readRecord(f io.ReaderAt, at int64) (rec record, length int64, err error) {
	var head [redoHead]byte
	if _, err := f.ReadAt(head[:], at); err != nil {
		return record{}, 0, noEOF(err)
	}
	n := int64(binary.LittleEndian.Uint32(head[4:]))
	if string(head[:4]) != redoMagic || n > redoBytes {
		return record{}, 0, nil
	}
	b := make([]byte, redoHead+n+4)
	if _, err := f.ReadAt(b, at); err != nil {
		return record{}, 0, noEOF(err)
	}
	end := len(b) - 4
	if crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return record{}, 0, nil
	}
	rec.number = binary.LittleEndian.Uint64(b[8:])
	rec.after = binary.LittleEndian.Uint64(b[16:])
	rec.mark = binary.LittleEndian.Uint64(b[24:])
	if rec.done, err = decodeStatements(b[redoHead:end]); err != nil {
		return record{}, 0, fmt.Errorf("record at %d: %w", at, err)
	}
	return rec, int64(len(b)), nil
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

// add notes a transaction that was committed, and returns its number. The caller holds
// Store.committing.
func (r *redo) add(done []statement) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	r.waiting = append(r.waiting, record{number: r.last, done: done})
	return r.last
}

// begin reports whether the caller is to write what waits; else somebody does already.
func (r *redo) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	was := r.going
	r.going = true
	return !was
}

// take returns what has no record, in order.
func (r *redo) take() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.waiting
	r.waiting, r.going = nil, false
	return list
}

// failed is the end of a wait for a transaction: nil if it is durable. The caller holds
// writing.
func (r *redo) failed(number uint64) error {
	if number <= r.durable {
		return nil
	}
	return r.err
}

// append writes records, and makes them durable. full says that they have no room. Any
// other error is final: the log is not to be written to again. The caller holds writing.
func (r *redo) append(list []record) (full bool, err error) {
	var all []byte
	mark := r.mark
	for _, rec := range list {
		rec.after = mark
		if mark, err = newMark(); err != nil {
			return false, fmt.Errorf("redo log: %w", err)
		}
		rec.mark = mark
		all = appendRecord(all, rec)
	}
	if len(all) == 0 {
		return false, nil
	}
	if r.at+int64(len(all)) > r.size {
		return true, nil
	}
	if err := r.write(all); err != nil {
		return false, fmt.Errorf("redo log: %w", err)
	}
	fail.Point("store.redo.written")
	if err := dataSync(r.f); err != nil {
		return false, fmt.Errorf("redo log: %w", err)
	}
	r.at += int64(len(all))
	r.mark = mark
	r.durable = list[len(list)-1].number
	return false, nil
}

// newMark draws the mark of a record. A job, whose words stand in records, can't guess it.
func newMark() (uint64, error) {
	var b [8]byte
	_, err := io.ReadFull(rand.Reader, b[:])
	return binary.LittleEndian.Uint64(b[:]), err
}

// appendRecord adds whole pages to b.
func appendRecord(b []byte, rec record) []byte {
	from := len(b)
	b = append(b, make([]byte, redoHead)...)
	b = appendStatements(b, rec.done)
	copy(b[from:], redoMagic)
	binary.LittleEndian.PutUint32(b[from+4:], uint32(len(b)-from-redoHead))
	binary.LittleEndian.PutUint64(b[from+8:], rec.number)
	binary.LittleEndian.PutUint64(b[from+16:], rec.after)
	binary.LittleEndian.PutUint64(b[from+24:], rec.mark)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
	return append(b, make([]byte, pages(int64(len(b)-from))-int64(len(b)-from))...)
}

// write puts whole pages at r.at.
func (r *redo) write(all []byte) error {
	n := len(all)
	if len(r.page) < n {
		b := make([]byte, n+redoPage)
		r.page = b[redoPage-int(uintptr(unsafe.Pointer(&b[0]))%redoPage):][:n]
	}
	copy(r.page, all)
	_, err := r.f.WriteAt(r.page[:n], r.at)
	return err
}
