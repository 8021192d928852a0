package main

import (
	osexec "os/exec"
	"syscall"
)

// ignoreModes is set where file modes mean nothing.
const ignoreModes = true

// ownGroup keeps the terminal's Ctrl-C from the child: it stops when we say so.
func ownGroup(cmd *osexec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
