package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot"
)

// Sizes and pauses of a log on its way.
const (
	logPiece = 256 << 10
	// logPause is how long a short piece waits for more before it is sent.
	logPause = 50 * time.Millisecond
	// logReserve is what Roost's own lines may take beyond the limit.
	logReserve = 64 << 10
)

// jobLog is the log of one attempt: a file that the job and Roost append to, and a
// goroutine that sends what the coordinator does not have. The job waits for the
// disk, never for the network. What does not fit, or can't be written, is dropped.
//
// The file is not synced. It survives the process, and the next one sends the rest;
// it goes when the attempt is over.
type jobLog struct {
	a   *Agent
	ref api.AttemptRef

	// sent is how far the coordinator has it.
	sent atomic.Int64

	// mu guards the fields below; the file is only appended to.
	mu      sync.Mutex
	f       *os.File
	size    int64
	limit   int64
	cut     bool  // the job's output is being dropped
	err     error // of the disk; nothing more is written
	closed  bool  // nothing comes any more
	changed chan struct{}

	ends chan struct{} // closed with closed
	done chan struct{} // closed when run has returned
}

func (a *Agent) logPath(id snapshot.ID) string { return filepath.Join(a.logDir(), string(id)+".log") }

// openLog makes the log of an attempt, or opens the one that an earlier process
// left. One that should have been left and was not is not begun anew: nobody knows
// what of it was sent.
func (a *Agent) openLog(ref api.AttemptRef, left bool) *jobLog {
	l := &jobLog{a: a, ref: ref, limit: a.o.LogLimit, changed: make(chan struct{}, 1), ends: make(chan struct{}), done: make(chan struct{})}
	how := os.O_RDWR | os.O_APPEND
	if !left {
		how |= os.O_CREATE
	}
	l.f, l.err = os.OpenFile(a.logPath(ref.Attempt), how, 0o600)
	if l.err == nil {
		l.size, l.err = l.f.Seek(0, io.SeekEnd)
	}
	if l.err != nil {
		a.log.Error("a job's log can't be kept", "attempt", ref.Attempt, "err", l.err)
	}
	return l
}

// Write takes the job's output. It takes all of it, whatever becomes of it: a job
// does not fail for its log.
func (l *jobLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keep := p
	if room := l.limit - l.size; int64(len(keep)) > room {
		keep = keep[:max(room, 0)]
	}
	l.appendLocked(keep)
	if len(keep) < len(p) && !l.cut {
		l.cut = true
		l.appendLocked([]byte(ownLine("the log is longer than %d bytes; what follows is dropped", l.limit)))
	}
	return len(p), nil
}

// say adds a line of Roost's own.
func (l *jobLog) say(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size < l.limit+logReserve {
		l.appendLocked([]byte(ownLine(format, args...)))
	}
}

// ownLine looks like the lines of GitLab's runner about itself. It starts a line
// of its own even where the job left one unfinished.
func ownLine(format string, args ...any) string {
	return "\r\x1b[0;36mroost: " + fmt.Sprintf(format, args...) + "\x1b[0;m\n"
}

func (l *jobLog) appendLocked(p []byte) {
	if len(p) == 0 || l.err != nil || l.closed {
		return
	}
	n, err := l.f.Write(p)
	l.size += int64(n)
	if err != nil {
		l.err = err
		l.a.log.Error("a job's log is cut short", "attempt", l.ref.Attempt, "err", err)
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// run sends what there is until close, and then the rest; or until ctx ends or the
// coordinator wants no more.
func (l *jobLog) run(ctx context.Context) {
	defer close(l.done)
	if l.f == nil {
		return
	}
	buf := make([]byte, logPiece)
	sent := l.resume(ctx)
	for sent >= 0 {
		l.mu.Lock()
		size, closed := l.size, l.closed
		l.mu.Unlock()
		if sent >= size {
			if closed {
				break
			}
			select {
			case <-l.changed:
			case <-ctx.Done():
				return
			}
			if !l.pause(ctx) {
				return
			}
			continue
		}
		n, err := l.f.ReadAt(buf[:min(int64(len(buf)), size-sent)], sent)
		if err != nil && n == 0 {
			l.a.log.Error("a job's log can't be read", "attempt", l.ref.Attempt, "err", err)
			return
		}
		sent = l.send(ctx, sent, buf[:n])
		l.sent.Store(sent)
	}
}

// resume finds out how much of a log that was there already was sent.
func (l *jobLog) resume(ctx context.Context) int64 {
	l.mu.Lock()
	size := l.size
	l.mu.Unlock()
	if size == 0 {
		return 0
	}
	var last [1]byte
	if _, err := l.f.ReadAt(last[:], size-1); err != nil {
		return 0
	}
	return l.send(ctx, size-1, last[:])
}

// send sends one piece and returns where to go on, -1 for nowhere.
func (l *jobLog) send(ctx context.Context, off int64, p []byte) int64 {
	next := off
	err := l.a.retry(ctx, "send a log", func(ctx context.Context) error {
		var err error
		next, err = l.a.o.Coordinator.AppendLog(ctx, l.ref, off, p)
		return err
	})
	var gap *api.OffsetError
	switch {
	case err == nil && next > off:
		return next
	case errors.As(err, &gap) && gap.Want < off:
		return gap.Want
	case err == nil:
		err = fmt.Errorf("the coordinator is at byte %d", next)
	}
	if ctx.Err() == nil {
		l.a.log.Warn("the coordinator takes no more of a log", "attempt", l.ref.Attempt, "at", off, "err", err)
	}
	return -1
}

// pause waits for more, unless nothing comes any more, and reports whether ctx has not
// ended.
func (l *jobLog) pause(ctx context.Context) bool {
	t := time.NewTimer(logPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.ends:
	case <-ctx.Done():
		return false
	}
	return true
}

// close ends the log and waits until it is sent, or until nothing of it could be
// for logPatience in which the coordinator answered other calls: the end of the
// attempt must not wait for a log that is not taken.
func (l *jobLog) close(giveUp func()) {
	l.mu.Lock()
	if !l.closed {
		close(l.ends)
	}
	l.closed = true
	l.mu.Unlock()
	select {
	case l.changed <- struct{}{}:
	default:
	}
	tick := time.NewTicker(logPatience / 20)
	defer tick.Stop()
	for left, last := 20, l.sent.Load(); ; {
		select {
		case <-l.done:
			if l.f != nil {
				l.f.Close() //nolint:errcheck // nothing is buffered
			}
			return
		case <-tick.C:
		}
		if now := l.sent.Load(); now != last {
			left, last = 20, now
		} else if l.a.heard() {
			left--
		}
		if left == 0 {
			l.a.log.Warn("the coordinator does not take the rest of a log", "attempt", l.ref.Attempt, "at", last)
			giveUp()
		}
	}
}

// logPatience is how long the end of a log may hold up that of its attempt.
const logPatience = 20 * time.Second

// start sends a log until the returned function has ended it.
func (l *jobLog) start(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	go l.run(ctx)
	return func() {
		l.close(cancel)
		cancel()
	}
}

// sweepLogs removes the logs of attempts that nobody will report any more.
func (a *Agent) sweepLogs(keep map[snapshot.ID]bool) {
	des, err := os.ReadDir(a.logDir())
	if err != nil {
		a.log.Warn("logs", "err", err)
		return
	}
	for _, de := range des {
		id, ok := cutSuffix(de.Name(), ".log")
		if !ok || keep[id] {
			continue
		}
		os.Remove(filepath.Join(a.logDir(), de.Name())) //nolint:errcheck // tried again at the next start
	}
	durable.SyncDir(a.logDir()) //nolint:errcheck // nothing depends on it
}

func cutSuffix(name, suffix string) (snapshot.ID, bool) {
	if len(name) <= len(suffix) || name[len(name)-len(suffix):] != suffix {
		return "", false
	}
	return snapshot.ID(name[:len(name)-len(suffix)]), true
}
