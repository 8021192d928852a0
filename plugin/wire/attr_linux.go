package wire

import "syscall"

// attributes: a group of its own, so that ^C at the agent's terminal is the agent's;
// killed when the agent dies without a word.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
