//go:build unix

package view

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lostFound is what a file system keeps for its own repair.
const lostFound = "lost+found"

// Empty deletes all that is in dir, which somebody else may write to: it goes by
// descriptors, follows no link and leaves dir itself as it is. What is mounted below
// dir is unmounted first; snapshot.ErrBusy says that somebody uses it, and then
// nothing is deleted. trash is a directory that only we write to.
func Empty(ctx context.Context, dir, trash string, o Options) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close() //nolint:errcheck // only read from
	names, err := d.Readdirnames(-1)
	if err != nil || len(names) == 0 {
		return err
	}
	if err := o.withDefaults().endMountsBelow(ctx, dir); err != nil {
		return err
	}
	keep := ""
	if isMountRoot(dir) {
		keep = lostFound
	}
	to, err := unix.Open(trash, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: trash, Err: err}
	}
	defer unix.Close(to) //nolint:errcheck // a directory
	var errs []error
	for _, n := range names {
		if n != keep {
			errs = append(errs, discardName(ctx, int(d.Fd()), dir, n, to, trash))
		}
	}
	return errors.Join(errs...)
}

// discardName deletes one name of dir, out of everybody's reach if it can be moved.
func discardName(ctx context.Context, fd int, dir, name string, to int, trash string) error {
	if done, _ := unlinkAny(fd, name); done {
		return nil
	}
	if f, err := openForRemoval(fd, name); err == nil { // so that it can be moved
		unix.Close(f) //nolint:errcheck // a directory
	}
	for i := 0; ; i++ {
		as := fmt.Sprintf("%s.%d", filepath.Base(dir), i)
		err := moveNew(fd, name, to, as)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err == nil {
			return shredIn(ctx, trash, as)
		}
		return shredIn(ctx, dir, name) // another file system
	}
}

// isMountRoot reports whether dir is the root of a file system's mount.
func isMountRoot(dir string) bool {
	var st, up unix.Stat_t
	return unix.Lstat(dir, &st) == nil && unix.Lstat(filepath.Dir(dir), &up) == nil && st.Dev != up.Dev
}
