//go:build unix

package wire

import "syscall"

// credential: the user and its group, and none of the agent's other groups.
func credential(u *User) *syscall.Credential {
	if u == nil {
		return nil
	}
	return &syscall.Credential{Uid: u.UID, Gid: u.GID}
}
