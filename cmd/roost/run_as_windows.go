package main

import (
	"errors"
	osexec "os/exec"
	osuser "os/user"
)

func runAs(*osexec.Cmd, *osuser.User) error {
	return errors.New("another user's shell is for Unix alone")
}
