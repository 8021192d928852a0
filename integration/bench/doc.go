// Package bench compares Roost with what people use today, in one run on one
// machine: `make bench`. Its tests exist under the build tag bench only, so that
// they are neither run nor skipped by anything else.
//
// There are three groups. In a session one way of keeping a tree (ours, tar, restic,
// ...) saves it, saves it unchanged and after a change, and restores it, all on a
// file system that was made for that session. In a hand-over one job's view is
// sealed and the next job's is mounted on it. Native speed is what a compiler and
// git take inside a view and on a plain directory. Sessions of different ways
// alternate; every tree that comes out is compared with the one that went in.
//
// docs/performance.md has the method and what came out.
package bench
