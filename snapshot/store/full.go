package store

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"modernc.org/sqlite"
)

// Result codes of SQLite that mean a full disk.
const (
	sqliteFull        = 13
	sqliteIOErrShmLen = 4874
)

// Those that may mean it: SQLite knows of no quota, nor why a file can't be made.
const (
	sqliteIOErr    = 10
	sqliteCantOpen = 14
)

// isFull reports whether an error says that the disk, its inodes or a quota are used up.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// dbError makes a full disk recognisable.
func dbError(err error) error {
	var e *sqlite.Error
	if errors.As(err, &e) && (e.Code()&0xff == sqliteFull || e.Code() == sqliteIOErrShmLen) {
		return fmt.Errorf("store.db: %w (%w)", syscall.ENOSPC, err)
	}
	if err != nil {
		return fmt.Errorf("store.db: %w", err)
	}
	return nil
}

// askDisk makes an error of SQLite that may mean a full disk recognisable if the disk of
// dir is.
func askDisk(dir string, err error) error {
	var e *sqlite.Error
	if isFull(err) || !errors.As(err, &e) || e.Code()&0xff != sqliteIOErr && e.Code()&0xff != sqliteCantOpen {
		return err
	}
	if why := room(dir); isFull(why) {
		return fmt.Errorf("%w (%w)", why, err)
	}
	return err
}

// room makes a small file, and returns what is in the way of that.
func room(dir string) error {
	f, err := os.CreateTemp(dir, "room-*")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, redoPage))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}
