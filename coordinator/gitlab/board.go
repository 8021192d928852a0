package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"time"
)

// Board is the coordinator as this package sees it. Its calls return when what they
// say is durable.
type Board interface {
	// Look gives what there is to do now. changed is closed when that may be different.
	Look() (work Work, changed <-chan struct{})
	// Take keeps a job that GitLab gave out. One that it has already is kept once. An
	// error says that it could not be kept now.
	Take(ctx context.Context, from Pool, j *Job, payload []byte) error
	// Token gives a kept job's token. An error wrapping ErrOver says that the job is
	// not kept any more.
	Token(ctx context.Context, id string) (Secret, error)
	// Intend notes that text is about to be written into a job's log, and says where.
	// ok is false if it may not be: a host may have the job by now.
	Intend(ctx context.Context, id, text string) (log Log, ok bool, err error)
	// Wrote notes what surely stands in a job's log, and gives the version of that.
	Wrote(ctx context.Context, id string, log Log) (int64, error)
	// Needs notes which jobs a job needs, by name, if GitLab said so.
	Needs(ctx context.Context, id string, names []string, known bool) error
	// Over notes that GitLab ended a job, or wants it ended, that no host has
	// accepted. wanted says that GitLab waits to hear of its end.
	Over(ctx context.Context, id, why string, wanted bool) error
	// Told notes that GitLab knows of a job's end.
	Told(ctx context.Context, id string) error
}

// Pool is where a job came from.
type Pool struct {
	Name string
	URL  string // normal
	// Runner is what the runner said of itself whose slot the request was made for.
	Runner json.RawMessage
}

// Work is what there is to do.
type Work struct {
	// Wants has the pools with slots to fill, by token.
	Wants []Want
	// Jobs are those that no host has accepted, and those that GitLab has to be told
	// of.
	Jobs []Kept
}

// Want is that a runner's token may be asked for jobs.
type Want struct {
	Pool
	Token Secret
	// Free is how many slots of the pool wait for a job that nobody is on the way for.
	// It is the same for all tokens of a pool.
	Free int
	// Tokens is how many tokens share Free.
	Tokens int
}

// Log is what was written into a job's log: all that was sent, and how much of it
// surely arrived.
type Log struct {
	Text []byte
	Sent int
	// Unsure says that somebody else may have written since.
	Unsure bool
	// Version tells an older picture of a job from a newer one.
	Version int64
}

// Kept is a job that has to be looked after.
type Kept struct {
	ID       string // the coordinator's
	URL      string // normal
	Job      int64
	Received time.Time
	// Given counts how often GitLab gave it: each time it may have another token.
	Given int
	// APIToken is set as long as GitLab has to be asked what the job of project Path
	// needs.
	APIToken Secret
	Path     string
	// Waiting is why it waits for a host, "" if it does not: it is assigned.
	Waiting string
	// Queued says that no host was offered the job: its log may be written to.
	Queued bool
	Log    Log
	// Owed is why it failed, "" while it waits. GitLab is told from OwedSince on; Quiet
	// says that its log is not ours to end, Canceled that it did not fail: GitLab asked
	// for its end.
	Owed      string
	OwedSince time.Time
	Canceled  bool
	Quiet     bool
	Timeout   time.Duration
	// Plain says that the lines of its log have no times.
	Plain bool
}

// ErrOver says that a job is not kept any more.
var ErrOver = errors.New("the job is over")
