// Package state keeps what the coordinator must not forget: pipelines, jobs,
// attempts, snapshots, seeds, hosts and events.
//
// The coordinator has one writer, which holds all that is live in memory and
// hands every change over as a Batch. A batch is committed as a whole and durable
// before Apply returns; only then is anybody told. What has ended is read back
// from here when somebody asks for it.
//
// Records are immutable once they were given to Apply or came from it: a change
// is a new record with the next version. Versions are checked on every write, so
// a second writer can never overwrite what the first one decided.
package state

import (
	"context"
	"errors"
	"fmt"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// Outcomes that callers branch on.
var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrStale says that a record is not at the version which a batch expects:
	// somebody else wrote. Nothing of the batch was done.
	ErrStale = errors.New("state was changed by somebody else")
	// ErrFull says that the disk is full. Nothing of the batch was done, and the
	// store goes on.
	ErrFull = errors.New("no space left for the coordinator's state")
)

// LockedError says that another process has the state open.
type LockedError struct {
	Dir    string
	Holder string // what it wrote about itself; "" if that can't be read
}

func (e *LockedError) Error() string {
	who := ""
	if e.Holder != "" {
		who = " (" + e.Holder + ")"
	}
	return fmt.Sprintf("%s is in use by another coordinator%s", e.Dir, who)
}

// Store is safe for use by several goroutines; Apply is called by one at a time.
type Store interface {
	// Apply commits b in one transaction that is durable on return. A record
	// whose Version is n must stand at version n-1 (1: must not exist). ErrStale
	// and ErrFull leave everything as it was; after any other error nobody knows,
	// and the store must be opened anew.
	Apply(ctx context.Context, b *Batch) error
	// Load reads all that is live: pipelines that run or are open with their jobs and
	// attempts, all hosts, seeds, domains and durations, and the snapshots that
	// these refer to with all their ancestors and bases.
	Load(ctx context.Context) (*Live, error)

	// Pipeline finds a pipeline by its id, with its jobs in order.
	Pipeline(ctx context.Context, id string) (*Pipeline, []*Job, error)
	// PipelineID finds the id of the pipeline with a number.
	PipelineID(ctx context.Context, number int64) (string, error)
	// PipelineByKey finds the pipeline that was submitted under a key.
	PipelineByKey(ctx context.Context, key string) (*Pipeline, error)
	// Pipelines lists the newest n, newest first; of one project unless it is "".
	Pipelines(ctx context.Context, project string, n int) ([]*Pipeline, error)
	// Job finds a job with all its attempts, oldest first.
	Job(ctx context.Context, id string) (*Job, []*Attempt, error)
	// Attempt finds an attempt.
	Attempt(ctx context.Context, id snapshot.ID) (*Attempt, error)
	// Snapshots finds those of ids that exist.
	Snapshots(ctx context.Context, ids []snapshot.ID) ([]*Snapshot, error)
	// Events lists up to n events of a pipeline after a sequence number.
	Events(ctx context.Context, pipeline string, after int64, n int) ([]api.Event, error)

	// Payload finds the sealed payload of a job.
	Payload(ctx context.Context, job string) ([]byte, error)

	// Close releases the state for the next process.
	Close() error
}

// Batch is what is committed together. Inserts of events, seeds and durations
// replace what has the same key.
type Batch struct {
	Pipelines []*Pipeline
	Jobs      []*Job
	Attempts  []*Attempt
	Snapshots []*Snapshot
	Hosts     []*Host
	Domains   []*Domain
	Events    []Event
	Seeds     []Seed
	// DropSeeds are those that better ones replaced.
	DropSeeds []Seed
	Durations []Duration
	// Payloads replace what a job had. DropPayloads are ids of jobs that need theirs no more.
	Payloads     []Payload
	DropPayloads []string
	// Meta are settings of the coordinator itself, such as its secret.
	Meta map[string]string
}

// Empty reports whether there is nothing to commit.
func (b *Batch) Empty() bool {
	return len(b.Pipelines)+len(b.Jobs)+len(b.Attempts)+len(b.Snapshots)+len(b.Hosts)+len(b.Domains)+
		len(b.Events)+len(b.Seeds)+len(b.DropSeeds)+len(b.Durations)+len(b.Payloads)+len(b.DropPayloads)+len(b.Meta) == 0
}

// Live is what Load reads.
type Live struct {
	Pipelines []*Pipeline
	Jobs      []*Job
	Attempts  []*Attempt
	Snapshots []*Snapshot
	Hosts     []*Host
	Domains   []*Domain
	Seeds     []Seed
	Durations []Duration
	Meta      map[string]string
	// Number is the highest number of a pipeline.
	Number int64
}
