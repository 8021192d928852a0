// Package agent is the daemon of one host. It registers with a coordinator, keeps
// its lease, claims jobs for its free slots, and takes each through its life: fetch
// what is missing, prepare a view, run the script, seal, report; and behind the
// jobs' backs pack and upload what they left.
//
// What it promises: a job starts from exactly the snapshots that it was given, or
// from an empty directory, and its log says which; a view is sealed only after
// success and when nothing of the job runs any more; an outcome is written down
// with the seal, and reported until the coordinator has answered, also by the next
// process; whoever lost the right to an attempt stops it. What it does not do yet:
// keep the tree of a failed job for a person to look at, and fetch from other
// hosts.
//
// A host has either an adapter, which runs jobs as it is told (mostly in a process of its
// own, which a job outlives), or a plugin whose runners ask for them (guest.go). Both go the same way through attach, commit and
// report. A runner's job is a guest: the agent lends it a workspace and does not
// decide about its life. It goes on when the coordinator can't be reached, when the
// plugin dies, and when the agent does; the next process finds it in its view.
//
// Goroutines: Run starts all of them and waits for all of them. The session
// (session.go) owns the lease; every running attempt is a goroutine of its own
// that nobody else touches but through the cancel function in Agent.running. What a
// plugin's call began (attach, seal, discard) goes on when the call ends, in a goroutine
// of Agent.jobs.
package agent
