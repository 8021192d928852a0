//go:build !linux

package pluginhost

import "os"

// fdPath: there is no name for an open file here. The path was found to be ours alone.
func fdPath(_ *os.File, path string) string { return path }

func selfPath() (string, error) { return os.Executable() }
