// Package exec runs jobs as processes of this host: bash in the job's view, as
// another user where the agent is root, and nothing of it left afterwards.
//
// It is used as an Adapter within the agent, or, as roost does, as a Plugin of the same
// binary.
//
// On Linux each job has a supervisor, a process of the agent's own binary that is
// started under another name (MaybeChild). It is the job's init: it sets up the
// namespaces in which the view stands at its path and no other job's process is
// seen, starts one shell after the other, keeps the time limits, adopts whatever the
// shells leave behind, and kills all of it at the end, or as soon as the agent is gone.
// It needs the adapter's process to begin and to hand on output and result, not to go
// on: a plugin that was killed is started anew, connects, and has missed nothing. Where cgroups v2 can
// be written to, the shells are in one of their own as well, so that what escapes
// the supervisor does not escape the job. Elsewhere a job is a process group, and
// what leaves it is looked for by its ancestors.
//
// The package keeps a job from harming other jobs by accident, and from outliving
// its slot. It is no sandbox: a job sees the host's files as its user does.
package exec
