package wire

import (
	"errors"
	"syscall"
)

func attributes(u *User) (*syscall.SysProcAttr, error) {
	if u != nil {
		return nil, errors.New("a plugin runs as the agent's user on Windows")
	}
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}, nil
}
