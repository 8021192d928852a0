// Package gitlabtest is a GitLab for tests: what a runner, its jobs and a proxy
// between them see of GitLab, and nothing else. It serves the runners' API, git
// over HTTP and the list of a pipeline's jobs on a port of its own, moves pipelines
// through their stages, and writes down all that was said, so that a test can ask
// whether each job ran once, ended once and lost no byte of its log.
//
//	g := gitlabtest.New(t, gitlabtest.Options{TwoPhase: true})
//	token := g.AddRunner(gitlabtest.RunnerDef{}).Token() // for config.toml
//	p := g.AddProject(t, "group/app", map[string]string{"README.md": "hello\n"})
//	g.Fault(gitlabtest.Fault{Route: "PUT /api/v4/jobs/{id}", Final: true, LoseReply: true})
//	pl := p.Run(t, gitlabtest.PipelineDef{Jobs: []gitlabtest.JobDef{
//		{Name: "build", Stage: "build", Script: []string{"make", gitlabtest.RanMark(file)}},
//		{Name: "test", Needs: gitlabtest.Needs("build"), Parallel: 3, Script: []string{"make check"}},
//	}})
//	pl.MustWait(t, gitlabtest.Success, time.Minute)
//	g.MustBeRight(t)
//
// What it answers follows the protocol notes of the design, by the sections that the
// comments name ("1.4"). What a real server does at random (a lost reply, a 409, a job
// canceled at a bad moment) it does when told to: see Fault, Options and Job.Cancel. A
// rule that it is told to break (Options.Break) shows whether a test would notice.
//
// Package runner, beneath, is the other side: a client that keeps a real runner's rules.
// Package dockertest is a docker daemon for its jobs.
package gitlabtest
