//go:build unix

package gitlab

import (
	"syscall"
	"time"
)

// processTime is what this process has taken of the processors, the kernel's work for it included.
func processTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
