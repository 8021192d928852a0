// Package snapshot names the things that Roost keeps: a snapshot is one
// immutable point of a workspace, a manifest is the sorted list of its entries,
// a layer is what changed from a base snapshot to a snapshot, a chunk is a piece
// of a file's content. It holds values and errors only and does no I/O; reading
// and writing them is the business of the packages beneath it.
package snapshot
