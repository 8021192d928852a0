// Package tree turns directories into manifests and computes with manifests:
// what changed from one to another (Diff), what a change makes of a tree (Apply),
// which snapshots of a graph stand above the others (Maximal, MergeBases), and the
// three-way merge of a job's several parents (Merge). What may be too long for memory is
// a Tree or Changes, which are gone through.
//
// Only Scan, Walk and Lstat touch the disk, and they never open a file: they
// read directories and ask for metadata. (Merge reads HEAD and its ref where
// several parents changed a .git.) All the rest is computation on sorted lists,
// linear in their length, and says the same on every host and in every order of
// arrival. Nothing here trusts a manifest that came from outside; that
// is what Validate and ValidateChanges are for, and callers must ask them before
// they let such a manifest reach anything else.
//
// The package promises that Apply(b, Diff(b, t)) is t, and Over the same.
package tree
