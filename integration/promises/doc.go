// Package promises proves what the store says that it survives, on real stores in
// throw-away directories: kill -9 at any moment, power that fails, a full or dying
// disk at every write-like system call, flipped bits, layers made to do harm, trees made to be
// hard to keep. docs/promises.md has the table and the last figures.
//
// The tests take their numbers from ROOST_PROMISES: "" is a few of each, so that
// plain "go test" stays quick; "ci" is the sample that CI runs; "full" is what
// "make promises" runs. Every test prints its seed; ROOST_SEED repeats it.
//
// What is found is compared by code that shares nothing with the store:
// integration/treecheck, and trees that are made twice from the same seed.
package promises
