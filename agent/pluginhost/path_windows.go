package pluginhost

import (
	"io/fs"
	"path/filepath"
)

// checkPath only resolves the path: who may write is in lists that nobody here reads.
func checkPath(path string) (string, error) { return filepath.EvalSymlinks(path) }

func onlyOurs(fs.FileInfo) error { return nil }
