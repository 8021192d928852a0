package view

import "golang.org/x/sys/unix"

// clearFlags takes the flags +i and +a from an open file or directory.
func clearFlags(fd int) {
	const immutable, appendOnly = 0x10, 0x20 // linux/fs.h: FS_IMMUTABLE_FL, FS_APPEND_FL
	const locked = immutable | appendOnly
	flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err != nil || flags&locked == 0 {
		return
	}
	unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^locked)) //nolint:errcheck // shows at the next step
}
