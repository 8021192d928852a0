//go:build unix

package tree

import "golang.org/x/sys/unix"

const openNoFollow = unix.O_NOFOLLOW | unix.O_NONBLOCK
