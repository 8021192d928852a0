//go:build unix && !linux

package wire

import "syscall"

func attributes(u *User) (*syscall.SysProcAttr, error) {
	return &syscall.SysProcAttr{Setpgid: true, Credential: credential(u)}, nil
}
