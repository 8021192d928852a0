package gitlab

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roost-ci/roost/internal/gitlablog"
)

// trace is a job's log in GitLab. It is one row of bytes:
//
//	0         foreign    foreign+len(prefix)
//	+---------+----------+-------------------+--------+
//	| foreign | prefix   | the runner's part | suffix |
//	+---------+----------+-------------------+--------+
//
// The runner sees its own part alone: its ranges are shifted on the way out, and
// GitLab's on the way back. GitLab appends a piece at its very end or not at all. mu
// is held over a call, so that there is one writer.
type trace struct {
	now    func() time.Time
	plain  bool // lines have no times, as the runner's have none
	mu     sync.Mutex
	prefix []byte
	// foreign is how much stands before that: lines of a host that had the job
	// before us and gave it back. Nobody here knows their bytes, so that such a trace
	// is told without a checksum.
	foreign int64
	// size is how much GitLab has, as far as it told; -1 unknown. known is the last
	// that it told.
	size, known int64
	// doubts are ends of pieces that were sent and not answered: sizes that GitLab may have by us.
	doubts []int64
	// begun: something of the runner's is there, or may be. marked: that is noted.
	begun, marked bool
	// tail is where lines end that were put behind a runner's part of unknown length.
	tail int64
}

// end is where the runner's part begins.
func (t *trace) end() int64 { return t.foreign + int64(len(t.prefix)) }

// maxPrefix bounds our lines before the runner's.
const maxPrefix = 256 << 10

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

// unsure are sizes that GitLab may have by us.
func (t *trace) unsure() []int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.doubts)
}

// lines is the prefix as it is now, what stands before it, and what GitLab has.
func (t *trace) lines() (prefix []byte, foreign, known int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.prefix, t.foreign, t.known
}

// line is one line as it stands in a trace.
func (t *trace) line(s string) []byte { return gitlablog.Line(t.now(), !t.plain, s) }

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
