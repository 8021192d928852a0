package gitlab

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// trace is a job's log in GitLab. It is one row of bytes:
//
//	0          len(prefix)         len(prefix)+runner's
//	+----------+-------------------+--------+
//	| prefix   | the runner's part | suffix |
//	+----------+-------------------+--------+
//
// The runner sees its own part alone: its ranges are shifted on the way out, and
// GitLab's on the way back. mu is held over a call, so that there is one writer.
type trace struct {
	now    func() time.Time
	mu     sync.Mutex
	prefix []byte
	// size is how much GitLab has, as far as it told; -1 unknown.
	size int64
	// tail is where lines end that were put behind a runner's part of unknown length.
	tail int64
}

// maxPrefix bounds our lines before the runner's.
const maxPrefix = 256 << 10

func (t *trace) init(now func() time.Time, prefix []byte) { t.now, t.prefix, t.size = now, prefix, -1 }

// forget makes the next call ask GitLab what it has.
func (t *trace) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.size = -1
}

// add appends lines of ours while no byte of the runner's can be there.
func (t *trace) add(lines ...string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lines {
		b := t.line(l)
		if n := len(t.prefix); n > 0 && t.prefix[n-1] != '\n' {
			b = append([]byte("\n"), b...)
		}
		if len(t.prefix)+len(b) <= maxPrefix {
			t.prefix = append(t.prefix[:len(t.prefix):len(t.prefix)], b...)
		}
	}
}

// lines is the prefix as it is now.
func (t *trace) lines() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.prefix
}

// line is one line as it stands in a trace. It begins with the time in the very form
// that the runner uses: GitLab looks at a trace's first line, which is ours, to know whether
// all have it, and shows the runner's as text if not.
func (t *trace) line(s string) []byte {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || (r < ' ' && r != '\t' && r != '\x1b') {
			return ' '
		}
		return r
	}, s)
	if len(s) > 4096 {
		s = strings.ToValidUTF8(s[:4096], "") + " …"
	}
	return []byte(t.now().UTC().Format("2006-01-02T15:04:05.000000Z") + " 00O " + s + "\n")
}

// sendPrefix brings GitLab's trace up to the end of the prefix. It returns the
// answer that prevented it, if any.
func (j *job) sendPrefix(ctx context.Context) (*answer, error) {
	j.trace.mu.Lock()
	defer j.trace.mu.Unlock()
	return j.fill(ctx, j.trace.prefix, 0)
}

// fill makes GitLab have data at base and returns nil when it has; what it has already of it is not
// sent again. Called with trace.mu held.
func (j *job) fill(ctx context.Context, data []byte, base int64) (*answer, error) {
	t := &j.trace
	end := base + int64(len(data))
	for range 4 { // GitLab tells its size once, perhaps twice if a call was answered late
		from := max(t.size, base)
		if from >= end {
			return nil, nil
		}
		a, err := j.patch(ctx, from, data[from-base:], "debug_trace=false", j.headers("text/plain"))
		if err != nil {
			return nil, err
		}
		if a.status != http.StatusAccepted && a.status != http.StatusRequestedRangeNotSatisfiable {
			return a, nil
		}
		if t.size < base && base > 0 {
			return nil, errShort
		}
	}
	return nil, fmt.Errorf("job %s: GitLab does not take its trace", j.id)
}

// errShort: GitLab has less of the trace than what stands before.
var errShort = fmt.Errorf("the trace in GitLab is shorter than what was sent")

// patch sends bytes of the trace at an offset and learns GitLab's size. Called with
// trace.mu held.
func (j *job) patch(ctx context.Context, start int64, data []byte, query string, header http.Header) (*answer, error) {
	header = header.Clone()
	header.Set("Content-Range", fmt.Sprintf("%d-%d", start, start+int64(len(data))-1))
	path := "api/v4/jobs/" + j.id + "/trace"
	a, err := j.s.up.do(ctx, http.MethodPatch, path, query, header, data)
	if err == nil && a.waits() && j.record().State != stateDelivering {
		// The runner's word that the job runs was lost on its way, and the job would be
		// given to somebody else.
		if err = j.acknowledge(ctx); err == nil {
			a, err = j.s.up.do(ctx, http.MethodPatch, path, query, header, data)
		}
	}
	if err != nil {
		j.trace.size = -1
		return nil, fmt.Errorf("job %s: trace: %w", j.id, err)
	}
	j.note(a)
	switch a.status {
	case http.StatusAccepted:
		j.trace.size = start + int64(len(data))
	case http.StatusRequestedRangeNotSatisfiable:
		size, ok := parseRange(a.header.Get("Range"))
		if !ok {
			j.trace.size = -1
			return nil, fmt.Errorf("job %s: trace: GitLab refused a range and named none", j.id)
		}
		j.trace.size = size
	}
	return a, nil
}

// pass sends what the runner sent, shifted, and makes GitLab's answer one about the
// runner's part. If GitLab has not even our prefix, it gets that first.
func (j *job) pass(ctx context.Context, start int64, data []byte, query string, header http.Header, limit int64) (*answer, error) {
	t := &j.trace
	t.mu.Lock()
	defer t.mu.Unlock()
	p := int64(len(t.prefix))
	for range 3 {
		if t.size >= 0 && t.size < p {
			if a, err := j.fill(ctx, t.prefix, 0); a != nil || err != nil {
				return a, err
			}
		}
		a, err := j.patch(ctx, start+p, data, query, header)
		if err != nil {
			return nil, err
		}
		if a.status == http.StatusRequestedRangeNotSatisfiable && t.size < p {
			continue
		}
		a.shift(p, limit)
		return a, nil
	}
	return nil, fmt.Errorf("job %s: GitLab does not take its trace", j.id)
}

// shift rewrites an answer's Range from GitLab's offsets to the runner's. limit, if
// not negative, is all that the runner has: our lines after it are none of its.
func (a *answer) shift(prefix, limit int64) {
	size, ok := parseRange(a.header.Get("Range"))
	if !ok {
		return
	}
	size = max(0, size-prefix)
	if limit >= 0 {
		size = min(size, limit)
	}
	a.header = a.header.Clone()
	a.header.Set("Range", "0-"+strconv.FormatInt(size, 10))
}

// parseRange reads GitLab's "0-<size>".
func parseRange(s string) (size int64, ok bool) {
	rest, ok := strings.CutPrefix(s, "0-")
	if !ok || !isNumber(rest) {
		return 0, false
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	return n, err == nil
}

// parseContentRange reads the runner's "<start>-<end>", both ends included.
func parseContentRange(s string, n int) (start int64, ok bool) {
	a, b, ok := strings.Cut(s, "-")
	if !ok || !isNumber(a) || !isNumber(b) {
		return 0, false
	}
	start, err1 := strconv.ParseInt(a, 10, 64)
	end, err2 := strconv.ParseInt(b, 10, 64)
	return start, err1 == nil && err2 == nil && end-start+1 == int64(n) && end < 1<<50
}

// join are lines of ours after the runner's part.
func (t *trace) join(lines ...string) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		b.Write(t.line(l))
	}
	return b.Bytes()
}
