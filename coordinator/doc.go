// Package coordinator is the server: it takes pipelines, decides which host runs
// which job, hands out claims under leases, keeps the outputs of jobs and tells
// everybody what happened.
//
// All decisions are made by one goroutine (loop.go) over one picture in memory
// (world.go). Calls become operations that it runs in batches: each changes copies
// of records in a transaction (txn.go), the batch is committed to the state store,
// and only then do the copies become the picture and the callers get their answers.
// A crash therefore loses nothing that anybody was told.
//
// An attempt runs under an epoch. Every call on it carries the epoch, and one that
// is not the job's newest is refused: a host that was given up can come back at
// any time and change nothing. Nothing depends on the clocks of hosts.
package coordinator
