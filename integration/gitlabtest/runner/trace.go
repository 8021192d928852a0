package runner

import (
	"context"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
)

// The waits of 1.5.
const (
	defaultInterval = 3 * time.Second
	maxInterval     = 15 * time.Minute
	forceSend       = 30 * time.Second
	maxPatch        = 1 << 20
	defaultLimit    = 4 << 20
)

// trace is a job's log on its way to GitLab.
type trace struct {
	cl  *client
	job *Job
	// cancel stops the script gracefully, abort all of the job at once.
	cancel, abort func()

	mu       sync.Mutex
	buf      []byte
	limit    int
	sent     int
	sentAt   time.Time
	interval time.Duration
	dynamic  time.Duration // the forced touch's interval

	finished chan struct{} // closed: no output comes any more
	watched  chan struct{} // closed: the watcher has ended
}

func newTrace(cl *client, job *Job) *trace {
	limit := defaultLimit
	if cl.e.OutputLimit > 0 {
		limit = cl.e.OutputLimit << 10
	}
	return &trace{
		cl: cl, job: job, limit: limit, sentAt: time.Now(), interval: defaultInterval, dynamic: forceSend,
		finished: make(chan struct{}), watched: make(chan struct{}),
	}
}

func (t *trace) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	room := t.limit - len(t.buf)
	switch {
	case room <= 0:
	case len(b) <= room:
		t.buf = append(t.buf, b...)
	default:
		t.buf = append(t.buf, b[:room]...)
		t.buf = append(t.buf, fmt.Sprintf("\n\x1b[33;1mJob's log exceeded limit of %d bytes.\nJob execution will continue but no more output will be collected.\x1b[0;m\n", t.limit)...)
	}
	return len(b), nil
}

func (t *trace) checksum() output {
	t.mu.Lock()
	defer t.mu.Unlock()
	return output{Checksum: fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(t.buf)), Bytesize: len(t.buf)}
}

func (t *trace) wait() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.interval
}

func (t *trace) setInterval(d time.Duration) {
	if d <= 0 {
		return
	}
	t.mu.Lock()
	t.interval = min(d, maxInterval)
	t.mu.Unlock()
}

// watch sends what is new every interval, until the job has no output any more.
func (t *trace) watch(ctx context.Context) {
	defer close(t.watched)
	for {
		timer := time.NewTimer(t.cl.c.scaled(t.wait()))
		select {
		case <-t.finished:
			timer.Stop()
			return
		case <-timer.C:
		}
		if !t.incremental(ctx) {
			<-t.finished
			return
		}
	}
}

// incremental says whether the job goes on.
func (t *trace) incremental(ctx context.Context) bool {
	a := t.send(ctx)
	if a.canceled {
		t.cancel()
	}
	if a.outcome == abort {
		t.abort()
		return false
	}
	if a.outcome != ok {
		return true
	}
	a = t.touch(ctx)
	if a.canceled {
		t.cancel()
	}
	if a.outcome == abort {
		t.abort()
		return false
	}
	return true
}

// send sends a patch, if there is anything.
func (t *trace) send(ctx context.Context) answer {
	t.mu.Lock()
	n := len(t.buf)
	if !t.cl.c.broken(PatchSize) {
		n = min(n, t.sent+maxPatch)
	}
	start, content := t.sent, t.buf[t.sent:n]
	t.mu.Unlock()
	if len(content) == 0 {
		return answer{outcome: ok}
	}
	a := t.cl.patch(ctx, t.job, content, start)
	t.setInterval(a.interval)
	if a.outcome == ok || a.outcome == mismatch {
		t.mu.Lock()
		t.sent, t.sentAt = min(a.offset, len(t.buf)), time.Now()
		t.mu.Unlock()
	}
	return a
}

// touch is call 8: only if nothing was sent for a while.
func (t *trace) touch(ctx context.Context) answer {
	t.mu.Lock()
	due := time.Since(t.sentAt) > t.cl.c.scaled(t.dynamic)
	t.mu.Unlock()
	if !due || t.cl.c.broken(ForcedTouch) {
		return answer{outcome: ok}
	}
	a := t.cl.update(ctx, t.job, report{State: "running", Output: t.checksum()})
	t.setInterval(a.interval)
	if a.outcome == ok {
		t.mu.Lock()
		t.sentAt = time.Now()
		t.mu.Unlock()
	}
	return a
}

func (t *trace) pending() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent != len(t.buf)
}
