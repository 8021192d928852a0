//go:build unix

package main

import (
	"os"
	osexec "os/exec"
	osuser "os/user"
	"strconv"
	"syscall"
)

// runAs makes a command another user's, with all of that user's groups.
func runAs(cmd *osexec.Cmd, u *osuser.User) error {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	if int(uid) == os.Geteuid() {
		return nil
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return err
	}
	for _, id := range ids {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return err
		}
		cred.Groups = append(cred.Groups, uint32(n))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	return nil
}
