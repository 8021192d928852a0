//go:build !linux

package tree

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
)

// errMany ends a count.
var errMany = errors.New("that many")

// Count is for who wants to know how to go about a tree: it returns how many names are
// below root, or most and more if there are that many.
func Count(ctx context.Context, root string, most int) int {
	n := -1 // root itself
	_ = filepath.WalkDir(root, func(string, fs.DirEntry, error) error {
		if n++; n >= most || ctx.Err() != nil {
			return errMany
		}
		return nil
	})
	return n
}
