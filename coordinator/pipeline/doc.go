// Package pipeline turns a GitLab-CI-shaped file into a validated graph of jobs.
//
// A *problem* is one thing wrong with the file: line, column, a stable code and a
// sentence that names the thing and the cure. Parse finds all of them at once. A
// key that it does not know is an error, a key that it knows and can't do yet is
// another; nothing in a file is ever skipped without a word. docs/pipeline.md is
// the reference of the keys.
//
// The text is not trusted: its size, its depth, what its aliases expand to and
// the number of jobs it makes are bounded, and Parse does no I/O.
package pipeline
