// Package fail marks the steps at which a process may die. In a normal build
// Point is empty and costs nothing; built with the tag "failpoints" it kills the
// process when the environment says so, which is how the crash tests reach every
// step on real processes.
package fail

// Env names the step to die at, "name" or "name:3" for the third time it is
// reached. EnvLog, when set, is a file that gets a line for each death.
const (
	Env    = "ROOST_FAILPOINT"
	EnvLog = "ROOST_FAILPOINT_LOG"
)
