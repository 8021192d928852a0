package view

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// circumstances are what decides whether a driver works at root: this boot of the
// kernel, what this process may do, and the file system. "" if they can't be told.
func circumstances(root string) string {
	var st unix.Stat_t
	if unix.Stat(root, &st) != nil {
		return ""
	}
	text := fmt.Sprintf("root %d %d\neuid %d\n", st.Dev, st.Ino, os.Geteuid())
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	text += string(boot)
	for _, ns := range []string{"mnt", "user"} {
		to, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return ""
		}
		text += to + "\n"
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "CapEff:") || strings.HasPrefix(line, "Seccomp:") || strings.HasPrefix(line, "NoNewPrivs:") {
			text += line
		}
	}
	label, err := os.ReadFile("/proc/self/attr/current") // of AppArmor or SELinux; no file without them
	if err == nil {
		text += string(label)
	}
	return text
}
