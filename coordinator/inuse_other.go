//go:build !windows

package coordinator

import "syscall"

// errInUse is what listening on a taken address gives.
const errInUse = syscall.EADDRINUSE
