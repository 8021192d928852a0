package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/oklog/ulid/v2"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/configs"
	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/pipeline"
)

type runOptions struct {
	remote
	hosts   int
	slots   int
	driver  string
	report  string
	project string
	source  string
	ref     string
	vars    []string
	logs    bool
	asJSON  bool
	tags    []string

	graph *pipeline.Graph // what FILE says
}

func newRun() *cobra.Command {
	var o runOptions
	c := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a pipeline file and follow it",
		Long: `Runs a pipeline file (GitLab CI's shape; docs/pipeline.md is the reference) and
follows it to its end. Without a configured coordinator it brings its own, with
--hosts agents, each a process with a store of its own; what they keep is in
--state, so the next run starts from it.

If FILE lies in a git work tree, jobs without parents start with its HEAD commit
checked out, or with that of --source. Ctrl-C cancels the pipeline and cleans up.` + exitHelp,
		Example: `  roost run pipeline.yml
  roost run pipeline.yml --hosts 2 --report report.json
  roost run pipeline.yml --source https://example.org/game.git --ref main`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd, args[0]) },
	}
	o.flags(c)
	f := c.Flags()
	f.IntVar(&o.hosts, "hosts", 1, "agents to bring, when no coordinator is configured")
	f.IntVar(&o.slots, "slots", 2, "jobs that each of them runs at once")
	f.StringVar(&o.driver, "driver", "auto", "how they make views: "+strings.Join(configs.Drivers, ", "))
	offer(c, "driver", configs.Drivers...)
	f.StringSliceVar(&o.tags, "tags", nil, "tags that they have, for jobs that ask for some")
	f.StringVar(&o.report, "report", "", "write what happened to each job to this file, as JSON")
	f.StringVar(&o.project, "project", "", "project that workspaces belong to; default: the git origin, else the path")
	f.StringVar(&o.source, "source", "", "git URL or directory to check out instead of FILE's work tree")
	f.StringVar(&o.ref, "ref", "", "branch, tag or commit of --source (default its HEAD)")
	f.StringArrayVar(&o.vars, "var", nil, "NAME=VALUE for all jobs (repeatable)")
	f.BoolVar(&o.logs, "logs", false, "print the jobs' output as it comes")
	f.BoolVar(&o.asJSON, "json", false, "print the report on standard output instead of progress and table")
	return c
}

func (o *runOptions) run(cmd *cobra.Command, file string) error {
	ctx := cmd.Context()
	submit, err := o.prepare(cmd, file)
	if err != nil {
		return err
	}
	client, closeCluster, err := o.client(ctx, cmd)
	if err != nil {
		return err
	}
	defer closeCluster()
	sub, err := client.Submit(ctx, ulid.Make().String(), *submit)
	if err != nil {
		return submitError(ctx, cmd, file, err)
	}
	f := newFollower(client, sub.Pipeline, cmd.ErrOrStderr(), o.logs)
	if o.asJSON {
		f.quiet()
	}
	followErr := f.follow(ctx)
	rep, err := o.finish(context.WithoutCancel(ctx), cmd, client, sub.ID)
	if err != nil {
		return errors.Join(followErr, err)
	}
	switch {
	case followErr != nil:
		return followErr
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted}
	case rep.Status != api.StatusSuccess:
		return &exitError{code: exitFailed}
	}
	return nil
}

// prepare reads and checks the file and finds out what to check out.
func (o *runOptions) prepare(cmd *cobra.Command, file string) (*api.Submit, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError(fmt.Errorf("pipeline file: %w", err), "")
	}
	if o.report != "" {
		if fi, err := os.Stat(filepath.Dir(o.report)); err != nil || !fi.IsDir() { // or it is told after the run
			return nil, usageError(fmt.Errorf("--report %s: %s is not a directory", o.report, filepath.Dir(o.report)), "")
		}
	}
	vars, err := parseVars(o.vars)
	if err != nil {
		return nil, err
	}
	graph, problems := pipeline.Parse(file, text, pipeline.Options{Variables: vars})
	printProblems(cmd, file, problems)
	if graph == nil {
		return nil, usageError(fmt.Errorf("%s: %s", file, countProblems(problems)), "docs/pipeline.md lists every key")
	}
	o.graph = graph
	s := &api.Submit{Project: o.project, File: file, Text: string(text), Variables: vars}
	return s, o.findSource(cmd, file, s)
}

// client connects to a coordinator, or starts one with agents.
func (o *runOptions) client(ctx context.Context, cmd *cobra.Command) (*api.Client, func(), error) {
	c, ok, err := o.connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	if f, ferr := readClusterFile(o.state); ok && (o.url != "" || ferr == nil && f.Shared) {
		for _, name := range []string{"hosts", "slots", "driver", "tags"} {
			if cmd.Flags().Changed(name) {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: --%s has no effect: the coordinator at %s has its own agents\n", name, c.Base())
			}
		}
		return c, func() {}, nil
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "roost", Level: hclog.Warn, Output: &aboveStatus{cmd.ErrOrStderr()}})
	if o.hosts < 1 {
		return nil, nil, usageError(errors.New("--hosts must be at least 1"), "")
	}
	if o.slots < 1 {
		return nil, nil, usageError(errors.New("--slots must be at least 1"), "")
	}
	if err := o.tagsMet(); err != nil {
		return nil, nil, err
	}
	if !o.asJSON {
		fmt.Fprintf(cmd.ErrOrStderr(), "starting a coordinator and %d %s (state: %s)\n", o.hosts, plural(o.hosts, "agent"), o.state)
		if os.Geteuid() != 0 {
			fmt.Fprintln(cmd.ErrOrStderr(), "note: without root each job's workspace is a copy of its parent's; as root on Linux it is a mount of some "+
				"milliseconds, at one path on every host (roost doctor tells more). Jobs run as you: they can read what you can, other jobs' "+
				"files and Roost's tokens included")
		}
	}
	cl, err := startCluster(ctx, clusterOptions{
		state: o.state, hosts: o.hosts, slots: o.slots, driver: o.driver, tags: o.tags, listen: "127.0.0.1:0", log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	for _, n := range cl.left {
		fmt.Fprintf(cmd.ErrOrStderr(), "note: canceled pipeline %d, which was left when its roost run was killed\n", n)
	}
	return cl.client, cl.Close, nil
}

// tagsMet refuses a pipeline with a job that none of our own agents may run: it
// would wait for ever.
func (o *runOptions) tagsMet() error {
	var lacking []string // tags
	first := ""          // job
	for _, j := range o.graph.Jobs {
		best := j.Tags
		for i := range o.hosts {
			has := append([]string{hostName(i)}, o.tags...)
			miss := slices.DeleteFunc(slices.Clone(j.Tags), func(t string) bool { return slices.Contains(has, t) })
			if len(miss) < len(best) || len(miss) == 0 {
				best = miss
			}
		}
		if len(best) > 0 && first == "" {
			first = j.Spec.Name
		}
		lacking = append(lacking, best...)
	}
	if first == "" {
		return nil
	}
	slices.Sort(lacking)
	lacking = slices.Compact(lacking)
	return usageError(fmt.Errorf("job %q asks for tags that no agent here has: %s", first, strings.Join(lacking, ", ")),
		"give them to the agents: --tags "+strings.Join(lacking, ","))
}

// finish fetches the pipeline as it ended, prints the table and writes the report.
func (o *runOptions) finish(ctx context.Context, cmd *cobra.Command, client *api.Client, id string) (*runReport, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	p, err := client.Pipeline(ctx, id)
	if err != nil {
		return nil, apiError(ctx, "pipeline "+id, err)
	}
	rep := newReport(p)
	if o.asJSON {
		if err := rep.write(cmd.OutOrStdout()); err != nil {
			return rep, err
		}
	} else {
		printTable(cmd.OutOrStdout(), p, rep)
	}
	if o.report != "" {
		return rep, rep.save(o.report)
	}
	return rep, nil
}

func submitError(ctx context.Context, cmd *cobra.Command, file string, err error) error {
	var e *api.Error
	if errors.As(err, &e) {
		printProblems(cmd, file, e.Problems)
	}
	return apiError(ctx, "submit "+file, err)
}

func printProblems(cmd *cobra.Command, file string, problems []api.Problem) {
	for _, p := range problems {
		kind := "error"
		if p.Warning {
			kind = "warning"
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s:%d:%d: %s: %s [%s]\n", file, p.Line, p.Column, kind, p.Text, p.Code)
	}
}

func countProblems(problems []api.Problem) string {
	n := 0
	for _, p := range problems {
		if !p.Warning {
			n++
		}
	}
	return fmt.Sprintf("%d %s; nothing was run", n, plural(n, "error"))
}

func parseVars(list []string) (map[string]string, error) {
	vars := map[string]string{}
	for _, v := range list {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, usageError(fmt.Errorf("--var %q: want NAME=VALUE", v), "")
		}
		vars[name] = value
	}
	return vars, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}
