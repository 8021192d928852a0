// Package pack reads and writes what a layer is stored and sent as: an index,
// which says what changed from a base snapshot and where each changed file's
// content lies, and packs, files of compressed frames that hold that content as
// chunks. It also has the canonical form of a manifest, whose digest names a tree.
//
// Packs, indexes and manifests are immutable and named by the SHA-256 of their
// bytes. A reader trusts none of them: lengths are bounded before anything is
// allocated, references are checked before they are followed, and a chunk reaches
// the caller only after its keyed digest was found right. FORMAT.md specifies the
// formats well enough to write another reader.
//
// The package keeps no state, knows no store and no network, and deletes nothing
// but its own temporary files.
package pack
