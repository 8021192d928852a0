package tree

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
)

// errMany ends a count.
var errMany = errors.New("that many")

// Count returns how many names are at and below root, or most and more if there are that
// many. It only lists directories, and what it can't list it leaves out: it is for who
// wants to know how to go about the tree.
func Count(ctx context.Context, root string, most int) int {
	n := 0
	_ = filepath.WalkDir(root, func(string, fs.DirEntry, error) error {
		if n++; n >= most || ctx.Err() != nil {
			return errMany
		}
		return nil
	})
	return n
}
