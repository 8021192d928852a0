package gitlabtest

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/http"
	"strconv"
	"time"
)

// updateBody is the body of a PUT (1.3).
type updateBody struct {
	Token         string `json:"token"`
	State         string `json:"state"`
	FailureReason string `json:"failure_reason"`
	Checksum      string `json:"checksum"`
	Output        struct {
		Checksum string `json:"checksum"`
		Bytesize int64  `json:"bytesize"`
	} `json:"output"`
	ExitCode int `json:"exit_code"`
}

// authLocked finds the job of a request by its token, and answers if there is none. A
// job that ended is refused with its status, one whose token is old is dropped
// (section 7); waiting says that a job that waits for its runner may be spoken of.
func (g *GitLab) authLocked(w http.ResponseWriter, r *http.Request, bodyToken string, waiting bool) *job {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	j := g.jobs[id]
	token := r.Header.Get("Job-Token")
	if token == "" {
		token = bodyToken
	}
	if j == nil || token != j.token || bodyToken != "" && bodyToken != j.token {
		fail(w, http.StatusForbidden, "403 Forbidden")
		return nil
	}
	if !j.expires.IsZero() && g.o.Now().After(j.expires) && !g.o.Breaks(TokenExpiry) {
		if !j.status.Ended() {
			j.ackUntil = time.Time{}
			j.endLocked(g, Failed, "job_token_expired", 0)
		}
		fail(w, http.StatusForbidden, "403 Forbidden")
		return nil
	}
	acking := j.status == Pending && !j.ackUntil.IsZero() && waiting
	if j.status != Running && j.status != Canceling && !acking && (!g.o.Breaks(FinalOnce) || !waiting) {
		if !g.o.Breaks(StatusHeader) {
			w.Header().Set("Job-Status", string(j.status))
		}
		fail(w, http.StatusForbidden, "403 Forbidden - Job is not running")
		return nil
	}
	return j
}

// serveUpdate is calls 6, 8 and 11.
func (g *GitLab) serveUpdate(w http.ResponseWriter, r *http.Request) {
	var b updateBody
	if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
		fail(w, http.StatusBadRequest, "400 Bad request")
		return
	}
	if b.Output.Checksum == "" {
		b.Output.Checksum = b.Checksum
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.advanceLocked()
	j := g.authLocked(w, r, b.Token, true)
	if j == nil {
		g.refusedLocked(r, b)
		g.notifyLocked()
		return
	}
	status := g.updateLocked(j, b)
	g.advanceLocked()
	g.notifyLocked()
	if !g.o.Breaks(StatusHeader) {
		w.Header().Set("Job-Status", string(j.status))
	}
	g.intervalHeader(w)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, "%d", status)
}

// intervalHeader says how often the runner should report; less often than once a
// second can't be said.
func (g *GitLab) intervalHeader(w http.ResponseWriter) {
	if s := int(g.o.UpdateInterval.Seconds()); s > 0 {
		w.Header().Set("X-GitLab-Trace-Update-Interval", strconv.Itoa(s))
	}
}

func (g *GitLab) refusedLocked(r *http.Request, b updateBody) {
	id, _ := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if j := g.jobs[id]; j != nil && (b.State == "success" || b.State == "failed") {
		j.log.Refused = append(j.log.Refused, g.finalLocked(j, b))
	}
}

func (g *GitLab) updateLocked(j *job, b updateBody) int {
	if j.status == Pending { // it waits for its acknowledgement
		switch {
		case b.State == "pending":
			j.log.Pendings++
			j.ackUntil = g.o.Now().Add(g.o.AckExpiry)
			return http.StatusOK
		case b.State != "running":
			return http.StatusBadRequest
		}
		j.status, j.manager, j.started = Running, j.ackManager, g.o.Now()
		j.ackUntil, j.ackManager = time.Time{}, ""
		j.log.Acked++
	}
	switch b.State {
	case "running":
		j.log.Touches++
		return http.StatusOK
	case "success", "failed":
		return g.endReportLocked(j, b)
	}
	if b.State == "pending" {
		j.log.Pendings++
	}
	return http.StatusBadRequest
}

// endReportLocked is a final report (1.4): 202 while the log is put away, 412 if
// it isn't as the runner has it, 200 when it counts.
func (g *GitLab) endReportLocked(j *job, b updateBody) int {
	f := g.finalLocked(j, b)
	if j.flush > 0 {
		j.flush--
		return http.StatusAccepted
	}
	if g.o.Verify && !f.Right {
		j.trace = nil
		return http.StatusPreconditionFailed
	}
	j.log.Finals = append(j.log.Finals, f)
	switch {
	case j.status == Canceling:
		j.endLocked(g, Canceled, "", b.ExitCode)
	case b.State == "success":
		j.endLocked(g, Success, "", 0)
	default:
		j.endLocked(g, Failed, b.FailureReason, b.ExitCode)
	}
	return http.StatusOK
}

func (g *GitLab) finalLocked(j *job, b updateBody) Final {
	sum := fmt.Sprintf("crc32:%08x", crc32.ChecksumIEEE(j.trace))
	return Final{
		State: Status(b.State), FailureReason: b.FailureReason, ExitCode: b.ExitCode, Checksum: b.Output.Checksum,
		Size: b.Output.Bytesize, At: g.o.Now(),
		Right: b.Output.Checksum == sum && b.Output.Bytesize == int64(len(j.trace)) || b.Output.Checksum == "" && b.State == "failed",
	}
}
