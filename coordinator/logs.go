package coordinator

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// maxPatch bounds one piece of a log.
const maxPatch = 8 << 20

// logs keeps one file for each attempt, addressed by offset. The file's length is
// the next offset: there is nothing beside it that could disagree.
//
// Crash states of an append: before the file is synced any part of the piece may
// be there, and its sender was not told; it sends from where it believes to be,
// and what is there already is skipped.
type logs struct {
	dir string
	max int64
	hub *hub

	// mu guards open. An open log has a lock of its own, which is held while it is
	// written. Lock order: mu before openLog.mu.
	mu   sync.Mutex
	open map[snapshot.ID]*openLog
}

// openLog is a log that is written to now.
type openLog struct {
	mu    sync.Mutex
	file  *os.File
	size  int64
	users int // guarded by logs.mu
}

// gapError says that bytes are missing before a piece.
type gapError struct{ want int64 }

func (e *gapError) Error() string { return fmt.Sprintf("the log goes on at byte %d", e.want) }

func openLogs(dir string, limit int64, h *hub) (*logs, error) {
	if err := durable.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("logs: %w", err)
	}
	return &logs{dir: dir, max: limit, hub: h, open: map[snapshot.ID]*openLog{}}, nil
}

func (l *logs) name(id snapshot.ID) string { return filepath.Join(l.dir, string(id)+".log") }

// acquire opens a log for writing. release must be called.
func (l *logs) acquire(id snapshot.ID) (*openLog, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.open[id]
	if o == nil {
		f, err := os.OpenFile(l.name(id), os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("log %s: %w", id, err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err == nil && size == 0 {
			err = durable.SyncDir(l.dir)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("log %s: %w", id, err), f.Close())
		}
		o = &openLog{file: f, size: size}
		l.open[id] = o
	}
	o.users++
	return o, nil
}

// release closes a log that nobody writes any more. Its errors were told by Sync.
func (l *logs) release(id snapshot.ID, o *openLog) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if o.users--; o.users == 0 {
		delete(l.open, id)
		o.file.Close() //nolint:errcheck // synced before
	}
}

// append adds p at off and returns the next offset, durable. Bytes that are there
// are skipped; a *gapError says that some are missing. Beyond the limit a notice
// is written once, and what follows is taken and dropped.
func (l *logs) append(id snapshot.ID, off int64, p []byte) (int64, error) {
	o, err := l.acquire(id)
	if err != nil {
		return 0, err
	}
	defer l.release(id, o)
	o.mu.Lock()
	defer o.mu.Unlock()
	end := off + int64(len(p))
	switch {
	case o.size >= l.max:
		return end, nil
	case off > o.size:
		return 0, &gapError{want: o.size}
	case end <= o.size:
		return o.size, nil
	}
	fresh := p[o.size-off:]
	cut := o.size+int64(len(fresh)) >= l.max
	if cut {
		fresh = append(fresh[:l.max-o.size:l.max-o.size], l.notice()...)
	}
	if err := o.write(fresh); err != nil {
		return 0, fmt.Errorf("log %s: %w", id, err)
	}
	l.hub.notify(logOf(string(id)))
	if cut {
		return end, nil
	}
	return o.size, nil
}

func (l *logs) notice() string {
	return fmt.Sprintf("\n[the log is longer than %d MiB; the rest is not kept]\n", l.max>>20)
}

// write appends and syncs. After an error the log is as it was: what a failed sync
// left is cut off, and its sender repeats it.
func (o *openLog) write(p []byte) error {
	_, err := o.file.WriteAt(p, o.size)
	if err == nil {
		err = o.file.Sync()
	}
	if err != nil {
		return errors.Join(err, o.file.Truncate(o.size))
	}
	o.size += int64(len(p))
	return nil
}

// read gives up to n bytes from off, and the log's length. A log that nobody has
// written is empty.
func (l *logs) read(id snapshot.ID, off, n int64) ([]byte, int64, error) {
	f, err := os.Open(l.name(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("log %s: %w", id, err)
	}
	defer f.Close() //nolint:errcheck // it was only read
	fi, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	size := fi.Size()
	if off >= size {
		return nil, size, nil
	}
	p := make([]byte, min(n, size-off))
	if _, err := f.ReadAt(p, off); err != nil {
		return nil, 0, fmt.Errorf("log %s: %w", id, err)
	}
	return p, size, nil
}

// close closes what is still open.
func (l *logs) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for id, o := range l.open {
		errs = append(errs, o.file.Close())
		delete(l.open, id)
	}
	return errors.Join(errs...)
}
