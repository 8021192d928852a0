//go:build !linux

package view

import (
	"context"
	"io"
	"os"
	"path/filepath"
)

// bind says that a tree can't be shown at a second place here.
func (d *Copy) bind(context.Context, string, string) (io.Closer, bool) { return nil, false }

// endMounts has nothing to do: this driver mounts nothing here.
func (d *Copy) endMounts(context.Context, *[]string) error { return nil }

// syncAll syncs every file and directory below dir: there is no call that syncs a
// file system and tells of errors.
func syncAll(_ *os.File, dir string) error {
	return filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !e.Type().IsRegular() && (!e.IsDir() || !canSyncDirs) {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		if serr := f.Sync(); serr != nil && canSyncDirs {
			f.Close() //nolint:errcheck // the first error is the one to tell
			return serr
		}
		return f.Close()
	})
}
