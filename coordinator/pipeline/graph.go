package pipeline

import (
	"slices"

	"github.com/roost-ci/roost/coordinator/api"
)

// Graph is a pipeline file that has no errors. It is built once and never changed
// after: jobs share slices and maps, so a caller that wants to edit one clones it.
type Graph struct {
	// Stages are in order, .pre first and .post last; also those without a job.
	Stages []string
	// Jobs are in file order, the instances of a parallel job side by side. Hidden
	// jobs are not among them. No two have the same Spec.Name.
	Jobs []Job
}

// Job is one job, or one instance of a job with parallel.
type Job struct {
	// Spec has every default filled in. Its Variables are those of the file, the
	// job and Options, the later ones winning; none of them is expanded.
	Spec api.JobSpec
	// Base is the name in the file: Spec.Name without " i/N".
	Base string
	// Line is where the job stands in the file, from 1.
	Line int

	// HasNeeds reports whether the job has the key needs, even an empty one. If it
	// has, it waits for Needs and for no stage.
	HasNeeds bool
	// Needs are in the order of the file, names of several instances expanded. An
	// optional need that names no job is left out.
	Needs []Need
	// Waits are the names of all jobs that must have ended before this one may
	// start: those of Needs, or every job of the stages listed before. Each stands
	// in Graph.Jobs, and the relation has no cycle.
	Waits []string
	// Parents are the names of the jobs whose workspace this one inherits, in the
	// order that decides merges. Each of them has ended when all of Waits have.
	// Ancestors of one another are not removed: that needs the run's lineage.
	Parents []string

	// Tags must all be among those of the host. Sorted, no duplicates.
	Tags         []string
	AllowFailure AllowFailure
	// When is one of OnSuccess, OnFailure and Always.
	When string
	// Retry is how often a failed script is tried again: 0 to 2. What is the fault
	// of a host does not count.
	Retry int
	// Source reports whether the job wants the commit checked out, which happens
	// only if it has no parents. False for GIT_STRATEGY: none.
	Source bool
}

// Need is one job that another one needs.
type Need struct {
	Job string // as in Spec.Name of the other job
	// Workspace is false if the files of that job are not wanted.
	Workspace bool
	// Optional needs are satisfied by a job that was never created. Those that do
	// exist are waited for like any other.
	Optional bool
}

// AllowFailure says which failures of a job leave its pipeline green.
type AllowFailure struct {
	Any bool
	// Codes are exit statuses, 1 to 255, sorted; empty if Any.
	Codes []int
}

// Allows reports whether a script that ended with code may fail.
func (a AllowFailure) Allows(code int) bool {
	if a.Any {
		return true
	}
	return slices.Contains(a.Codes, code)
}

// Values of Job.When.
const (
	OnSuccess = "on_success"
	OnFailure = "on_failure"
	Always    = "always"
)

// Values of api.WorkspaceSpec.
const (
	CommitOnSuccess = "on_success"
	CommitIfChanged = "if-changed"
	CommitNever     = "never"

	ModeRequired = "required"
	ModeOptional = "optional"

	ConflictError = "error"
	ConflictOrder = "order"
)
