package view

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// contentFunc fills dst, an empty file, with the size bytes of src.
type contentFunc func(ctx context.Context, dst, src *os.File, size int64, m *Meter) error

// NewReflink opens the driver that clones: the copying driver, but for that every
// file shares its extents with the one that it comes from, and a file system that
// can't do that is refused. So nobody gets copies who asked for clones.
func NewReflink(root string, o Options) (Driver, error) {
	d, err := newCopy(NameReflink, root, o, cloneContent)
	if err != nil {
		return nil, err
	}
	if err := tryReflink(d.root); err != nil {
		return nil, fmt.Errorf("%w: reflink: %w", ErrUnavailable, err)
	}
	return d, nil
}

// errNoClone says that a file can't share its extents with its source.
var errNoClone = errors.New("can't be cloned")

// CloneOrCopy makes dst, an empty file, have the size bytes of src, as a driver
// would, and reports whether they share them.
func CloneOrCopy(ctx context.Context, dst, src *os.File, size int64) (cloned bool, err error) {
	if cloneContent(ctx, dst, src, size, nil) == nil {
		return true, nil
	}
	return false, copyContent(ctx, dst, src, size, nil)
}
