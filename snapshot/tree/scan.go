package tree

import (
	"context"
	"errors"

	"github.com/roost-ci/roost/snapshot"
)

// ScanOptions says what of a directory is recorded.
type ScanOptions struct {
	// Owners records uids and gids. Without it they are recorded as 0, which means
	// "self": who runs without root can't set them and does not compare them.
	Owners bool
}

// Inode is what Lstat knows of a name besides what a manifest keeps.
type Inode struct {
	Dev, Ino uint64
	Nlink    uint32
	CTime    int64 // nanoseconds since 1970
	Rdev     uint64
	Char     bool // a character device 0:0, overlay's whiteout; the entry has no Type
}

// Scan records the tree at root, an existing directory. No file is opened: files
// have a Source, their absolute path, and no Chunks. What a snapshot can't keep is
// a *snapshot.UnsupportedError that names the first such path. A tree that
// changes meanwhile is an error or a mixture, never a crash or a hang.
func Scan(ctx context.Context, root string, o ScanOptions) (*snapshot.Manifest, error) {
	return nil, errors.ErrUnsupported
}

// Item is one name met by Walk.
type Item struct {
	Entry   snapshot.Entry
	Inode   Inode
	Special []snapshot.Xattr // trusted.overlay.*
}

// Walk calls fn for each entry of the tree at root in the order of a manifest,
// the root first, with what Lstat would say of it. Link is not filled in. An
// entry that a snapshot can't keep ends the walk, but character devices 0:0 and
// trusted.overlay.* are handed to fn. An error of fn ends the walk and is
// returned.
func Walk(ctx context.Context, root string, o ScanOptions, fn func(it *Item) error) error {
	return errors.ErrUnsupported
}

// Lstat says of the name rel below root what Scan would record, without following
// any symlink. Link is not filled in. Xattrs hold user.* and POSIX ACLs; special
// holds trusted.overlay.*, which is the overlay driver's business. A character
// device 0:0 is no error but Inode.Char; other devices, file capabilities and
// other trusted.* and security.* attributes are a *snapshot.UnsupportedError.
func Lstat(root, rel string, o ScanOptions) (e snapshot.Entry, ino Inode, special []snapshot.Xattr, err error) {
	return e, ino, nil, errors.ErrUnsupported
}
