package runner

import "os/exec"

// No test runs jobs there.
func ownGroup(*exec.Cmd) {}
func endGroup(int)       {}
func killGroup(int)      {}
