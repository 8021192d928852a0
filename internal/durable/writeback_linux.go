package durable

import "golang.org/x/sys/unix"

func startWriteback(fd int) {
	unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE) //nolint:errcheck // the sync tells
}
