//go:build unix && !linux

package view

import (
	"context"

	"golang.org/x/sys/unix"
)

// moveNew moves a name to one that there must not be.
func moveNew(from int, name string, to int, as string) error {
	var st unix.Stat_t
	if unix.Fstatat(to, as, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return unix.EEXIST
	}
	return unix.Renameat(from, name, to, as)
}

// endMountsBelow has nothing to do: no driver mounts anything here.
func (o Options) endMountsBelow(context.Context, string) error { return nil }
