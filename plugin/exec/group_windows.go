package exec

import (
	"os"
	osexec "os/exec"
	"strconv"
)

// feed gives the script to the shell by name: there are no other descriptors here.
func feed(cmd *osexec.Cmd, script *os.File) error {
	cmd.Args = []string{"bash", "--noprofile", "--norc", "-eo", "pipefail", script.Name()}
	return nil
}

func ownGroup(*osexec.Cmd) {}

// signalGroup kills the whole tree at once: nothing here understands SIGTERM.
func signalGroup(p *os.Process, _ bool) {
	//nolint:noctx,errcheck // short; gone already
	osexec.Command("taskkill", "/T", "/F", "/PID", strconv.Itoa(p.Pid)).Run()
}

func groupAlive(*os.Process) bool { return false }

func howEnded(st *os.ProcessState) ended { return ended{Code: st.ExitCode()} }
