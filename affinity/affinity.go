// Package affinity decides which queued job runs on which host. It is pure: a
// Fleet, which is the scheduler's immutable picture of hosts and jobs, goes in and
// a Decision comes out. It has no clock, no randomness and no I/O; the same fleet
// always gives the same decision, so a simulator and the coordinator share it.
//
// A job is placed by comparing seconds: to start now elsewhere and move the
// missing bytes, or to wait for a slot where they are. Waiting has a bound
// (Fleet.Bound): past it a job takes the best host that is free.
package affinity

import "github.com/roost-ci/roost/snapshot"

// Code says in one word why a job was placed or why it waits. The words are those
// of the coordinator's interface.
type Code string

// Why a job was placed where it was, or why it waits.
const (
	Continuation Code = "continuation" // the host holds all its files
	Cheapest     Code = "cheapest"     // least seconds, bytes and waiting included
	OnlyHost     Code = "only-host"    // no other host may run it
	NoInput      Code = "no-input"     // nothing to move: any free host
	Overdue      Code = "overdue"      // waited long enough for a better one

	WaitSlot   Code = "wait-slot"   // every host that could run it is full
	WaitHost   Code = "wait-host"   // no host has its tags
	WaitHolder Code = "wait-holder" // cheaper to wait for the host that has the files
	WaitUpload Code = "wait-upload" // the free hosts lack files that are not uploaded yet
)

// Params are the constants of the cost model. The zero Params are the defaults.
type Params struct {
	MaxWait    float64 // seconds that a job may wait for its files; 120
	Service    float64 // seconds that a job holds its slot, on average; 60
	Overhead   float64 // seconds that a fetch takes beside its bytes; 0.2
	Rate       float64 // bytes per second to a host that told nothing; 100e6
	StoreRate  float64 // bytes per second out of the blob store; 1e9
	ColdStart  float64 // seconds that a job loses without its seed; 30
	Lambda     float64 // weight of the utilisation; 0.5
	Window     int     // jobs that get a cost comparison in one decision; 256
	Candidates int     // hosts listed with a decision; 16
}

// defaults fills in what is zero.
func (p Params) defaults() Params {
	for _, d := range []struct {
		v *float64
		n float64
	}{{&p.MaxWait, 120}, {&p.Service, 60}, {&p.Overhead, 0.2}, {&p.Rate, 100e6}, {&p.StoreRate, 1e9}, {&p.ColdStart, 30}, {&p.Lambda, 0.5}} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	if p.Window == 0 {
		p.Window = 256
	}
	if p.Candidates == 0 {
		p.Candidates = 16
	}
	return p
}

// Fleet is everything that a decision depends on.
type Fleet struct {
	Hosts []Host // names are unique
	Jobs  []Job  // queued, in any order; ids are unique
	// Running counts the slots that each project has now.
	Running map[string]int
	Params  Params
}

// Host is one machine with an agent.
type Host struct {
	Name string
	// Fingerprint is what must be equal for a seed to be of use on another host. Its
	// parts are the caller's.
	Fingerprint string
	Tags        []string // it takes jobs whose tags are all among them
	// Pool, if set, is the pool of runners that it serves: it takes only jobs of that.
	Pool  string
	Slots int
	Free  int // slots in which a job could start now
	// Off says why no job may start here at all; "" if one may.
	Off string
	// Residual is the estimated time in seconds until each running job ends.
	Residual []float64
	// Has are the snapshots that it holds, each with all that it stands on.
	Has map[snapshot.ID]bool
	// Coming are those under way to it, and the seconds until they are there.
	Coming map[snapshot.ID]float64
	// Parts says what it has, or will have, of others: one of these, and what stands on
	// it, is fetched with that copied.
	Parts map[snapshot.ID][]Part
	// Fetching counts the jobs that fetch to it now; Rate is the bytes per second
	// that it was seen to fetch at, 0 while unknown.
	Fetching int
	Rate     float64
}

// Part is what a host has of a layer with another snapshot. Of several snapshots a
// fetch copies from one.
type Part struct {
	With  snapshot.ID
	Bytes int64
	After float64 // seconds until it is there
	// Tree is the size of the other's tree, without what came after the layer; 0 if that
	// is not known.
	Tree int64
}

// Layer is one snapshot's own layer.
type Layer struct {
	ID    snapshot.ID
	Bytes int64 // to move of its content
	// Index is what has to move to know of it, whatever the host has of its content.
	Index   int64
	Durable bool // the blob store has it
	// Tree is at most all content of the snapshot, as it would move; 0 if that is not known.
	// For a chain no more moves than the first one's. Plain is the size of its files.
	Tree, Plain int64
	// Beside are snapshots below which this one has content of and does not stand on:
	// the other parents of a merge, those before one whose layer is against nothing. What
	// a host lacks of them moves with it.
	Beside []Chain
}

// Chain is a snapshot and all that it stands on: itself first, the root last.
type Chain []Layer

// Job is one queued job.
type Job struct {
	ID       string
	Project  string // projects take turns, the one with the fewest slots first
	Pipeline int64  // older ones go first
	Index    int    // place in its pipeline
	Tags     []string
	// Pool, if set, is the pool that it came to: only its hosts may run it.
	Pool string
	// MaxWait, if set, takes the place of Params.MaxWait for this job.
	MaxWait float64
	// Inputs must all be there. A job with Inputs has no Seeds.
	Inputs []Chain
	// Seeds are snapshots that it may start from, best first, by fingerprint of
	// the host. It starts cold where none can be had.
	Seeds map[string][]Chain
	// Waited is how many seconds ago a host could have run it for the first time.
	Waited float64
	// Avoid are hosts that failed it. They get it only if no other host may.
	Avoid []string
}

// Decision is what Decide decided. Every job of the fleet is in exactly one of
// Assign and Wait.
type Decision struct {
	Assign []Assignment
	Wait   []Waiting
	// Again is the time in seconds after which to decide again even if nothing
	// happens; 0 if there is no need to.
	Again float64
}

// Assignment gives a job to a host.
type Assignment struct {
	Job, Host  string
	Code       Code
	Reason     string
	Candidates []Candidate
	// Seed is the one of Job.Seeds to start from, "" for none.
	Seed snapshot.ID
	// Missing are the bytes to move and Seconds the time until it can start.
	Missing int64
	Seconds float64
}

// Waiting says why a job stays in the queue.
type Waiting struct {
	Job        string
	Code       Code
	Reason     string
	Candidates []Candidate
	// Urgent are the snapshots to upload first, so that other hosts can take it.
	Urgent []snapshot.ID
}

// Candidate is one host under scoring.
type Candidate struct {
	Host     string
	Missing  int64   // bytes that would have to move
	Seconds  float64 // until the job could start there
	Excluded string  // why it can't run there; "" if it can
}
