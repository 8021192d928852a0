//go:build failpoints && unix

package fail

import "syscall"

func kill() {
	syscall.Kill(syscall.Getpid(), syscall.SIGKILL) //nolint:errcheck // nothing to do about it
	select {}
}
