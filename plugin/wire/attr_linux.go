package wire

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// attributes: a group of its own, so that ^C at the agent's terminal is the agent's;
// killed when the agent dies without a word. Another user's process may still listen
// where root alone may (below port 1024): what must not be taken by a job while the
// adapter restarts.
func attributes(u *User) (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: credential(u)}
	if u != nil && may(unix.CAP_NET_BIND_SERVICE) {
		a.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	}
	return a, nil
}

// may reports whether this process has a capability below 32 that it can pass on.
func may(capability int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var d [2]unix.CapUserData
	return unix.Capget(&h, &d[0]) == nil && d[0].Permitted&(1<<capability) != 0
}
