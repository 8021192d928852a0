package gitlabtest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// Flaws says, for each attempt at each job, what did not go as it must: handed out more
// than once, begun more than once, ended other than once, or a log that isn't what
// its runner had. Attempts that were given back by an acknowledgement that never came, and
// jobs canceled by GitLab, need no report of their end. An attempt that never ended is one too.
func (g *GitLab) Flaws() []string {
	var flaws []string
	for _, j := range g.Jobs() {
		bad := func(format string, args ...any) {
			flaws = append(flaws, fmt.Sprintf("job %d %s (%s %s): ", j.ID, j.Name, j.Status, j.FailureReason)+fmt.Sprintf(format, args...))
		}
		if !j.Status.Ended() {
			bad("has not ended")
		}
		if n := len(j.Log.Assigned); n > 1 {
			bad("handed out %d times: %v", n, j.Log.Assigned)
		}
		byReport := j.Status == Success || j.Status == Failed && j.reported()
		switch n := len(j.Log.Finals); {
		case n > 1:
			bad("ended %d times", n)
		case n == 0 && byReport:
			bad("ended without a report")
		case n == 1 && !j.Log.Finals[0].Right:
			bad("log of %d bytes, crc32:%08x, reported as %+v", len(j.Trace), j.CRC(), j.Log.Finals[0])
		}
	}
	return flaws
}

// reported says that a runner's report ended the job, and not the server.
func (j Job) reported() bool {
	switch j.FailureReason {
	case "runner_provisioning_timeout", "runner_unsupported", "job_token_expired", "stuck_or_timeout_failure", "trace_size_exceeded":
		return false
	}
	return len(j.Log.Assigned) > 0
}

// MustBeRight ends t if Flaws finds any.
func (g *GitLab) MustBeRight(t testing.TB) {
	t.Helper()
	if flaws := g.Flaws(); len(flaws) > 0 {
		for _, f := range flaws {
			t.Error(f)
		}
		t.FailNow()
	}
}

// RanMark is a line of a job's script that says in a file that the job ran: the server
// can't see it, so it is how a test knows that none ran twice.
func RanMark(file string) string { return `echo "$CI_JOB_ID" >>'` + file + `'` }

// Ran reads such a file: how often each job ran.
func Ran(t testing.TB, file string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	ran := map[string]int{}
	for _, id := range strings.Fields(string(b)) {
		ran[id]++
	}
	return ran
}
