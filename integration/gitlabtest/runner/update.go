package runner

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// outcome is what a runner makes of the answer to a report.
type outcome int

const (
	ok outcome = iota
	accepted
	mismatch // of the log's checksum, or of a patch's offset
	abort
	gone
	failed
)

// answer is what PUT and PATCH have in common.
type answer struct {
	outcome  outcome
	canceled bool          // gracefully: Job-Status is canceling
	interval time.Duration // 0: not said
	offset   int
}

func read(resp *http.Response) answer {
	a := answer{canceled: resp.Header.Get("Job-Status") == "canceling"}
	if s, err := strconv.Atoi(resp.Header.Get("X-GitLab-Trace-Update-Interval")); err == nil {
		a.interval = time.Duration(s) * time.Second
	}
	return a
}

// ended says that the server has ended the job (1.5).
func (cl *client) ended(resp *http.Response) bool {
	switch resp.Header.Get("Job-Status") {
	case "canceled", "failed":
		return true
	}
	return resp.StatusCode == http.StatusForbidden && !cl.c.broken(AbortOn403)
}

// report is a report's body (1.3).
type report struct {
	State         string `json:"state"`
	FailureReason string `json:"failure_reason,omitempty"`
	ExitCode      int    `json:"exit_code,omitempty"`
	Checksum      string `json:"checksum,omitempty"`
	Output        output `json:"output"`
	Token         string `json:"token"`
	Info          any    `json:"info"`
}

type output struct {
	Checksum string `json:"checksum,omitempty"`
	Bytesize int    `json:"bytesize,omitempty"`
}

// update is calls 6, 8 and 11.
func (cl *client) update(ctx context.Context, job *Job, r report) answer {
	r.Token, r.Info, r.Checksum = job.Token, cl.info(), r.Output.Checksum
	resp, _, err := cl.json(ctx, "PUT", fmt.Sprintf("jobs/%d", job.ID), http.Header{"Job-Token": {job.Token}}, r)
	if err != nil {
		return answer{outcome: failed}
	}
	a := read(resp)
	switch {
	case cl.ended(resp):
		a.outcome = abort
	case resp.StatusCode == http.StatusOK:
		a.outcome = ok
	case resp.StatusCode == http.StatusAccepted:
		a.outcome = accepted
	case resp.StatusCode == http.StatusPreconditionFailed:
		a.outcome = mismatch
	case resp.StatusCode == http.StatusNotFound:
		a.outcome = abort
	default:
		a.outcome = failed
	}
	return a
}

// patch is call 7.
func (cl *client) patch(ctx context.Context, job *Job, content []byte, start int) answer {
	end := start + len(content)
	h := http.Header{
		"Job-Token": {job.Token}, "Content-Type": {"text/plain"}, "Content-Range": {fmt.Sprintf("%d-%d", start, end-1)},
	}
	resp, err := cl.do(ctx, "PATCH", fmt.Sprintf("jobs/%d/trace?debug_trace=false", job.ID), h, content)
	if err != nil {
		return answer{outcome: failed}
	}
	defer resp.Body.Close()
	a := read(resp)
	switch {
	case cl.ended(resp):
		a.outcome = abort
	case resp.StatusCode == http.StatusAccepted:
		a.outcome, a.offset = ok, end
	case resp.StatusCode == http.StatusNotFound:
		a.outcome = gone
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable:
		a.outcome = mismatch
		var zero, size int
		if _, err := fmt.Sscanf(resp.Header.Get("Range"), "%d-%d", &zero, &size); err == nil && !cl.c.broken(ResendAt) {
			a.offset = size
		} else {
			a.offset = end
		}
	default:
		a.outcome = failed
	}
	return a
}
