package store

import (
	"os"
	"strings"
)

// bootID names this run of the kernel, "" if that can't be known.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
