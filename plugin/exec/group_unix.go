//go:build unix && !linux

package exec

import (
	"os"
	osexec "os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// feed gives the script to the shell at descriptor 3, already without a name.
func feed(cmd *osexec.Cmd, script *os.File) error {
	if _, err := script.Seek(0, 0); err != nil {
		return err
	}
	cmd.Args = shellArgs
	cmd.ExtraFiles = []*os.File{script}
	return nil
}

func ownGroup(cmd *osexec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func signalGroup(p *os.Process, kill bool) {
	sig := syscall.SIGTERM
	if kill {
		sig = syscall.SIGKILL
	}
	syscall.Kill(-p.Pid, sig) //nolint:errcheck // gone already
}

func groupAlive(p *os.Process) bool { return syscall.Kill(-p.Pid, 0) == nil }

func howEnded(st *os.ProcessState) ended {
	ws, ok := st.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return ended{Code: 128 + int(ws.Signal()), Signal: unix.SignalName(ws.Signal())}
	}
	return ended{Code: st.ExitCode()}
}
