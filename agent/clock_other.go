//go:build !linux

package agent

import "time"

// elapsed is the time since the process was started.
func elapsed() time.Duration { return time.Since(started) }

var started = time.Now() //nolint:forbidigo // only differences of it are used
