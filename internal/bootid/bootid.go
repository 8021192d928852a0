// Package bootid names this run of the kernel, so that what was written before a restart
// of the machine is told from what was written since.
package bootid

import (
	"os"
	"strings"
)

// Read returns the name, "" where the system has none or does not tell: then nobody
// knows of a restart.
func Read() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id") // Linux alone has it
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
