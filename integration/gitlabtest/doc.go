// Package gitlabtest is a GitLab for tests: what a runner, its jobs and a proxy
// between them see of GitLab, and nothing else. It serves the runners' API, git
// over HTTP and the list of a pipeline's jobs on a port of its own, moves pipelines
// through their stages, and writes down all that was said, so that a test can ask
// whether each job ran once, ended once and lost no byte of its log.
//
// What it answers follows the protocol notes of the design, by the sections that the
// comments name ("1.4"). What a real server does at random (a lost reply, a 409, a job
// canceled at a bad moment) it does when told to: see Fault, Options and Job.Cancel.
//
// Package runner, beneath, is the other side: a client that keeps a real runner's rules.
package gitlabtest
