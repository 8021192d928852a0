// Package store keeps one host's snapshots: which layers there are, in what state
// each one is, and what stands on what.
//
// A job's view is prepared on held snapshots, sealed by one row, and is
// then at once the base of the next job's view on this host. Behind it Run brings
// the sealed layer to disk for good, scans it and packs it: from then on it is
// known by digests and can be read by other hosts. Import is the other direction.
//
// docs/failure-model.md has the promises of each state. In short: an OPEN view outlives its
// process only if it was asked to, and never the machine; a SEALED layer outlives the process but not the machine; a
// synced one outlives the machine; a PACKED one is fixed by its digest.
//
// One process owns a store directory. Everything in it can be rebuilt from the
// database and the immutable files beside it:
//
//	store.db            SQLite, WAL: views, layers, intents
//	redo                what makes a commit durable (redo.go)
//	open/<id>           what the next process needs of a view whose job may outlive this one
//	views/<id>/         the driver's: one directory per view or layer
//	packs/ indexes/     blobs by digest, as they are sent
//	manifests/          <digest>: whole trees; <id>.src, <id>.fanin: where files lie
//	trash/ tmp/         emptied at Open
//	bad/                what the scrub found damaged; deleted after a week
//	reserve             space that is given up so that deletion works on a full disk
//	reserve-files/      and files, for one that has no room for more of them
//	driver, probed      the driver that made views/, and where it was found to work
//	lock, holder        who owns it
package store
