// Package gitlab is the endpoint that GitLab Runner talks to instead of GitLab, on
// the runner's own host. It has no jobs and no workspaces: both come from the
// agent through plugin.Agent.
//
// A slot is one [[runners]] entry: its own URL prefix (/slot3) and its own local
// token, which is worth nothing outside this host. A job is in one of these states,
// and its record on disk follows:
//
//	granted     the agent gave it; its workspace is being made; no record yet, so
//	            that after a crash it is given back as undelivered
//	delivering  the record is durable, the answer is being written; nothing was
//	            heard of the runner about it yet
//	running     the runner has it: its calls go to GitLab, trace ranges shifted by
//	            the length of our own lines
//	lost        it is not ours any more; nothing of it goes upstream
//	ending      it has its outcome: sealed or discarded, then told to GitLab until
//	            GitLab answers
//	done        a tombstone with GitLab's answer, for a runner that asks again
//
// Success is never told to GitLab before the workspace is sealed, because GitLab
// starts the next job at once. Nothing is ever told that the record does not say.
package gitlab
