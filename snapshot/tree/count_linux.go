package tree

import (
	"context"

	"golang.org/x/sys/unix"
)

// Count returns how many names are below root, or most and more if there are that many.
// It only lists directories, and leaves out what it can't list: it is for who wants to
// know how to go about the tree.
func Count(ctx context.Context, root string, most int) int {
	t, err := openTree(root)
	if err != nil {
		return 0
	}
	defer t.close()
	n := 0
	for todo := []string{""}; len(todo) > 0 && n < most && ctx.Err() == nil; {
		rel := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		fd, err := t.open(rel)
		if err != nil {
			continue
		}
		if rel != "" {
			rel += "/"
		}
		_ = eachName(fd, func(name []byte, kind byte) {
			n++
			plain := name[:len(name)-1]
			if kind == unix.DT_DIR || kind == unix.DT_UNKNOWN && kindOf(fd, string(plain)) == unix.DT_DIR {
				todo = append(todo, rel+string(plain))
			}
		})
		unix.Close(fd) //nolint:errcheck // only read from
	}
	return n
}
