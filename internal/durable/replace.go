package durable

import (
	"os"
	"path/filepath"
)

// Replace gives name new content, whole or not at all for whoever reads it, also
// after the process was killed in the middle. It syncs nothing: after a power cut the
// old content may be there, or none. What it leaves behind when it is killed begins
// with ".new-".
func Replace(name string, perm os.FileMode, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	if _, err = f.Write(content); err == nil {
		err = f.Chmod(perm)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name()) //nolint:errcheck // the first error is the one to tell
	}
	return err
}
