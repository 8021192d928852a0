package gitlabtest

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// maxTrace is where a log is too long (trace_size_exceeded).
const maxTrace = 100 << 20

// serveTrace is call 7. A patch is taken only at the log's end; elsewhere it is refused
// with where that is. One that ends exactly there is answered as if it had been taken, and
// changes nothing: so a patch may be repeated whose answer was lost.
func (g *GitLab) serveTrace(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 2<<20))
	if err != nil {
		return // cut off: nothing of it counts
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.notifyLocked()
	g.advanceLocked()
	j := g.authLocked(w, r, "", false)
	if j == nil {
		return
	}
	first, last, ok := strings.Cut(r.Header.Get("Content-Range"), "-")
	start, err1 := strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	if !ok || err1 != nil || err2 != nil || end != start+int64(len(body))-1 {
		fail(w, http.StatusBadRequest, "400 Missing header Content-Range")
		return
	}
	if end >= maxTrace {
		j.endLocked(g, Failed, "trace_size_exceeded", 0)
		fail(w, http.StatusForbidden, "403 Forbidden")
		return
	}
	size := int64(len(j.trace))
	g.intervalHeader(w)
	switch {
	case start == size || g.o.Breaks(AppendAtEnd):
		j.trace = append(j.trace, body...)
	case end+1 == size:
		j.log.Repeats++
	default:
		j.log.Gaps++
		w.Header().Set("Range", fmt.Sprintf("0-%d", size))
		fail(w, http.StatusRequestedRangeNotSatisfiable, "416 Range Not Satisfiable")
		return
	}
	w.Header().Set("Job-Status", string(j.status))
	w.Header().Set("Range", fmt.Sprintf("0-%d", len(j.trace)))
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, "0-%d", len(j.trace))
}
