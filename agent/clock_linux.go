package agent

import (
	"time"

	"golang.org/x/sys/unix"
)

// elapsed is the time since the machine was started, what it slept included. Go's
// own monotonic clock stands still then, and a lease would seem to live on.
func elapsed() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Since(started)
	}
	return time.Duration(ts.Nano())
}

var started = time.Now() //nolint:forbidigo // only differences of it are used
