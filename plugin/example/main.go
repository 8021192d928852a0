// Command spool is a sample of a plugin for Roost by somebody else: a module of its
// own, which sees of Roost only packages that anybody may import.
//
// It is a tiny CI system. Whoever puts a file spool/new/<name>.json with
// {"script": "…"} there has a job; the job runs in a workspace of Roost's; its log and
// its end are in spool/done. Its configuration is {"spool": "/a/directory"}.
//
// What it takes to be a plugin that loses nothing is in three places: job.go writes
// down each step before it takes it, script.go starts scripts so that they outlive the
// plugin, and spool.go asks the agent, when it begins, what it still has.
package main

import "github.com/roost-ci/roost/plugin/wire"

func main() { wire.Main(newSpool(wire.Logger())) }
