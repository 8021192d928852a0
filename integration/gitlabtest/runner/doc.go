// Package runner is a runner for tests: a client of GitLab's runner API that keeps the
// rules of a real runner, down to its waits, its retries and the directories it uses,
// and runs jobs with real git and bash.
//
// The rules come from the numbered sections of the protocol notes ("1.4"), which the
// comments name. Each can be broken on purpose (Config.Break), so that a test of what
// stands between runner and server can show that it would notice.
//
// A runner runs inside the test (New, Run) or as a process of its own that can be
// killed (Start). Jobs call the runner's program for artifacts, so a test binary that
// uses this package calls Main first in TestMain. Linux and macOS only.
package runner
