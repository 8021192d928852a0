package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/api"
)

func newWhy() *cobra.Command {
	var (
		r      remote
		asJSON bool
		number string
	)
	c := &cobra.Command{
		Use:   "why JOB",
		Short: "Tell why a job ran where it ran, what it found and what it moved",
		Long: `Answers from the reasons that were stored when they were decided. JOB is a job's
name (in the newest pipeline, or that of --pipeline) or its id.` + exitHelp,
		Example: "  roost why package\n  roost why package --pipeline 12",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			client, done, err := r.reader(ctx, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			defer done()
			j, err := r.findJob(ctx, client, number, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printIndented(cmd.OutOrStdout(), j)
			}
			explain(cmd.OutOrStdout(), j)
			return nil
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringVar(&number, "pipeline", "", "number or id of the pipeline; default: the newest")
	return c
}

// reader connects to a coordinator to read from it; when none runs it starts the
// one of the state directory for as long as it takes.
func (r *remote) reader(ctx context.Context, errw io.Writer) (*api.Client, func(), error) {
	c, ok, err := r.connect(ctx)
	if err != nil || ok {
		return c, func() {}, err
	}
	if _, err := os.Stat(filepath.Join(r.state, "coordinator")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, r.noPipeline()
	}
	log := hclog.New(&hclog.LoggerOptions{Name: "roost", Level: hclog.Warn, Output: errw})
	cl, err := startCluster(ctx, clusterOptions{state: r.state, listen: "127.0.0.1:0", log: log})
	if err != nil {
		return nil, nil, err
	}
	return cl.client, cl.Close, nil
}

// noPipeline says that there is nothing to ask about.
func (r *remote) noPipeline() error {
	where := "in " + r.state
	if r.url != "" {
		where = "at " + r.url
	}
	return usageError(fmt.Errorf("no pipeline has run %s", where), "another place: --state DIR or --coordinator URL")
}

// findJob looks a job up by id, or by name in one pipeline.
func (r *remote) findJob(ctx context.Context, c *api.Client, number, name string) (*api.JobDetail, error) {
	if number == "" {
		if j, err := c.Job(ctx, name); err == nil {
			return j, nil
		}
		newest, err := c.Pipelines(ctx, "", 1)
		if err != nil {
			return nil, apiError(ctx, "pipelines", err)
		}
		if len(newest) == 0 {
			return nil, r.noPipeline()
		}
		number = newest[0].ID
	}
	p, err := c.Pipeline(ctx, number)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return nil, usageError(fmt.Errorf("there is no pipeline %s", number), "roost status --pipelines 50 lists the newest")
	}
	if err != nil {
		return nil, apiError(ctx, "pipeline "+number, err)
	}
	var names []string
	for _, j := range p.Jobs {
		if j.Name == name || j.ID == name {
			d, err := c.Job(ctx, j.ID)
			return d, apiError(ctx, "job "+name, err)
		}
		names = append(names, j.Name)
	}
	return nil, usageError(fmt.Errorf("pipeline %d has no job %q", p.Number, name), "it has: "+strings.Join(names, ", "))
}

// explain prints everything that is known of a job's way.
func explain(w io.Writer, j *api.JobDetail) {
	fmt.Fprintf(w, "%s (pipeline %d of %s): %s\n", j.Name, j.PipelineNumber, j.Project, j.Status)
	if j.Reason != "" {
		fmt.Fprintf(w, "  %s [%s]\n", j.Reason, j.Code)
	}
	if o := j.Origin; o != nil {
		fmt.Fprintf(w, "  %s job %d, pool %s\n", o.System, o.ID, o.Pool)
		if o.Web != "" {
			fmt.Fprintf(w, "  %s\n", o.Web)
		}
		if o.Owed != "" {
			fmt.Fprintf(w, "  %s was not told yet: %s\n", o.System, o.Owed)
		}
	}
	if len(j.Attempts) == 0 {
		fmt.Fprintln(w, "  it has not been given to a host")
	}
	for _, a := range j.Attempts {
		fmt.Fprintf(w, "\nattempt %d on %s: %s\n", a.Number, a.Host, a.Status)
		if a.Reason != "" {
			fmt.Fprintf(w, "  end:       %s [%s]\n", a.Reason, a.Code)
		}
		fmt.Fprintf(w, "  placed:    %s [%s]\n", a.Placed.Reason, a.Placed.Code)
		explainWorkspace(w, a.Workspace)
		explainCandidates(w, a.Placed.Candidates)
	}
}

func explainWorkspace(w io.Writer, ws api.Workspace) {
	if ws.State == "" {
		return
	}
	fmt.Fprintf(w, "  workspace: %s from %s by %s: %s [%s]\n", ws.State, ws.Origin, ws.Source, ws.Reason, ws.Code)
	fmt.Fprintf(w, "  bytes:     %s needed, %s moved, %s written to attach\n", humanize.IBytes(uint64(ws.BytesNeeded)),
		humanize.IBytes(uint64(ws.BytesMoved)), humanize.IBytes(uint64(ws.BytesWritten)))
	fmt.Fprintf(w, "  times:     attach %s, seal %s (driver %s)\n", millis(ws.AttachMS), millis(ws.SealMS), ws.Driver)
}

// startsIn is how long a candidate would have taken to start the job.
func startsIn(seconds float64) string {
	if seconds < 0.001 {
		return "at once"
	}
	return millis(1000 * seconds)
}

func explainCandidates(w io.Writer, list []api.Candidate) {
	if len(list) == 0 {
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  CANDIDATE\tMISSING\tCOULD START IN")
	for _, c := range list {
		if c.Excluded != "" {
			fmt.Fprintf(t, "  %s\t%s\tno: %s\n", c.Host, humanize.IBytes(uint64(c.MissingBytes)), c.Excluded)
			continue
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\n", c.Host, humanize.IBytes(uint64(c.MissingBytes)), startsIn(c.Seconds))
	}
	t.Flush() //nolint:errcheck // standard output is gone: nobody to tell
}
