package pack

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// yieldTo lets other threads go before this one, by so much as nice(1) says. It is
// for a goroutine's whole life: its thread ends with it.
func yieldTo(nice int) {
	if nice <= 0 {
		return
	}
	runtime.LockOSThread()
	unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), nice) //nolint:errcheck // it is as fast as the others then
}
