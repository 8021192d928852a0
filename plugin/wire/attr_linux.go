package wire

import "syscall"

// attributes: a group of its own, so that ^C at the agent's terminal is the agent's;
// killed when the agent dies without a word.
func attributes(u *User) (*syscall.SysProcAttr, error) {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: credential(u)}, nil
}
