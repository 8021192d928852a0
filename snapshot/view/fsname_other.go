//go:build !linux

package view

import "runtime"

// FileSystem is what people call the file system at dir; here it is not asked.
func FileSystem(string) string { return "a file system of " + runtime.GOOS }
