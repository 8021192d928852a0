// Package bench compares Roost with what people use today, in one run on one
// machine: `make bench`. Its tests exist under the build tag bench only, so that
// they are neither run nor skipped by anything else.
//
// A task is something that a pipeline needs (hand a tree to the next job, keep a
// small change), a way is one means of doing it: ours, cp, rsync, tar and zstd,
// zip, hard links. Each round does every way of every task once, in another order
// than the round before, and compares the tree that came out with the one that
// went in. What is printed are medians, and ratios of medians.
//
// docs/performance.md tells how to read the tables, and what was found.
package bench
