//go:build !linux

// Package longpath reaches files whose path is longer than a system call takes, on Linux.
package longpath

// Do calls fn with path: there is no other way to it here.
func Do(path string, fn func(path string) error) error { return fn(path) }
