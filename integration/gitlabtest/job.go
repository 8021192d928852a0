package gitlabtest

import (
	"context"
	"hash/crc32"
	"slices"
	"time"
)

// job is one attempt: a retry is another, with an id of its own.
type job struct {
	id       int64
	token    string
	name     string
	node     [2]int // index and total of a parallel job
	def      JobDef
	pipeline *Pipeline
	status   Status
	retried  bool
	tries    int
	reason   string
	exitCode int

	queued, started, ended time.Time
	expires                time.Time // of the token; zero before the hand-out
	runner                 *Runner
	manager                string    // system_id, "" until the job is running
	ackUntil               time.Time // while a runner's acknowledgement is awaited
	ackManager             string
	cancelGracefully       bool
	features               map[string]any

	trace     []byte
	artifacts []stored
	flush     int
	log       Log
}

type stored struct {
	kind, format, name, path string
	size                     int64
}

// Log is what happened to a job, in order of time in each list.
type Log struct {
	// Assigned are the runner managers to which it was handed out.
	Assigned []string
	// Acked says how often a report took it from waiting to running.
	Acked int
	// Finals are the final reports that counted; a right one has one.
	Finals []Final
	// Refused are final reports that were answered 403, such as repeated ones.
	Refused []Final
	// Gaps counts patches that were refused because they began elsewhere than at the
	// log's end, Repeats those that were there already.
	Gaps, Repeats int
	// Touches counts reports of state running.
	Touches int
	// Pendings counts reports of state pending.
	Pendings int
	// Uploads and Downloads count artifacts.
	Uploads, Downloads int
}

// Final is a final report.
type Final struct {
	State         Status
	FailureReason string
	ExitCode      int
	Checksum      string
	Size          int64
	// Right says that the log as GitLab has it is of that checksum and size, or that a
	// job that failed was reported by somebody who doesn't know its log.
	Right bool
	At    time.Time
}

// Job is a copy of a job's state.
type Job struct {
	ID             int64
	Name, Stage    string
	Status         Status
	Token          string
	FailureReason  string
	ExitCode       int
	Manager        string // the system_id of the manager that runs it
	Trace          []byte
	Artifacts      int
	Queued         time.Time
	Started, Ended time.Time
	Retried        bool
	Log            Log

	g *GitLab
}

func (j *job) copyLocked(g *GitLab) Job {
	l := j.log
	l.Assigned, l.Finals, l.Refused = slices.Clone(l.Assigned), slices.Clone(l.Finals), slices.Clone(l.Refused)
	return Job{
		ID: j.id, Name: j.name, Stage: j.def.Stage, Status: j.status, Token: j.token, FailureReason: j.reason,
		ExitCode: j.exitCode, Manager: j.manager, Trace: slices.Clone(j.trace), Artifacts: len(j.artifacts),
		Queued: j.queued, Started: j.started, Ended: j.ended, Retried: j.retried, Log: l, g: g,
	}
}

// CRC is the checksum of the log as GitLab has it.
func (j Job) CRC() uint32 { return crc32.ChecksumIEEE(j.Trace) }

// Job is the state of a job now; it must exist.
func (g *GitLab) Job(id int64) Job {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.jobs[id].copyLocked(g)
}

// Jobs are all attempts at all jobs, by id.
func (g *GitLab) Jobs() []Job {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []Job
	for _, j := range g.jobs {
		all = append(all, j.copyLocked(g))
	}
	slices.SortFunc(all, func(a, b Job) int { return int(a.ID - b.ID) })
	return all
}

// Now is the job's state now.
func (j Job) Now() Job { return j.g.Job(j.ID) }

// WaitStatus waits until the job has one of these statuses and returns it.
func (j Job) WaitStatus(ctx context.Context, s ...Status) (Job, error) {
	err := j.g.Wait(ctx, func() bool { return slices.Contains(s, j.g.jobs[j.ID].status) })
	return j.Now(), err
}

// Cancel cancels the job as a person does: one that waits is canceled at once, one
// that runs too, unless its runner can cancel gracefully: then it is canceling until the
// runner reports.
func (j Job) Cancel() {
	j.g.withJob(j.ID, func(j *job) {
		switch {
		case j.status.Ended():
			return
		case j.status == Running && j.cancelGracefully:
			j.status = Canceling
		default:
			j.endLocked(j.pipeline.project.g, Canceled, "", 0)
		}
	})
}

// ForceCancel cancels the job at once, whatever its runner can.
func (j Job) ForceCancel() {
	j.g.withJob(j.ID, func(j *job) {
		if !j.status.Ended() {
			j.endLocked(j.pipeline.project.g, Canceled, "", 0)
		}
	})
}

// Drop ends the job as failed for a reason of the server's own, such as
// stuck_or_timeout_failure.
func (j Job) Drop(reason string) {
	j.g.withJob(j.ID, func(j *job) {
		if !j.status.Ended() {
			j.endLocked(j.pipeline.project.g, Failed, reason, 0)
		}
	})
}

// Play starts a manual job.
func (j Job) Play() {
	j.g.withJob(j.ID, func(j *job) {
		if j.status == ManualJob {
			j.enqueueLocked(j.pipeline.project.g)
		}
	})
}

// ExpireToken makes the job's token old.
func (j Job) ExpireToken() {
	j.g.withJob(j.ID, func(j *job) { j.expires = j.pipeline.project.g.o.Now().Add(-time.Second) })
}

func (g *GitLab) withJob(id int64, f func(*job)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(g.jobs[id])
	g.advanceLocked()
	g.notifyLocked()
}
