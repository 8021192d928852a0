package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/roost-ci/roost/coordinator/api"
)

// statusPipelines is how many pipelines are shown if nobody says.
const statusPipelines = 10

// status is what roost status prints with --json.
type status struct {
	Hosts     []api.Host     `json:"hosts"`
	Pipelines []api.Pipeline `json:"pipelines"`
}

func newStatus() *cobra.Command {
	var (
		r      remote
		asJSON bool
		n      int
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Tell what the hosts and pipelines of a coordinator do",
		Long: `Lists a coordinator's hosts, whether it hears of them and how much room they have,
and its newest pipelines, with what runs and what waits. With --json one object, in
which each pipeline has all its jobs, for a monitoring system to look at.` + exitHelp,
		Example: "  roost status\n  roost status --json | jq '.hosts[] | {name, state, running, disk_free}'",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 0 {
				return usageError(errors.New("--pipelines must not be negative"), "")
			}
			ctx := cmd.Context()
			client, ok, err := r.connect(ctx)
			if err != nil {
				return err
			}
			if !ok {
				return &exitError{
					code: exitUnreachable, err: fmt.Errorf("no coordinator runs for the state directory %s", r.state),
					hint: "roost up starts one; another directory: --state DIR; another coordinator: --coordinator URL",
				}
			}
			st, err := readStatus(ctx, client, n)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), st)
			}
			return st.print(cmd.OutOrStdout(), time.Now())
		},
	}
	r.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().IntVar(&n, "pipelines", statusPipelines, "how many of the newest pipelines to show")
	return c
}

func readStatus(ctx context.Context, c *api.Client, n int) (*status, error) {
	hosts, err := c.Hosts(ctx)
	if err != nil {
		return nil, apiError(ctx, "hosts", err)
	}
	st := &status{Hosts: append([]api.Host{}, hosts...), Pipelines: []api.Pipeline{}}
	if n == 0 {
		return st, nil
	}
	list, err := c.Pipelines(ctx, "", n)
	if err != nil {
		return nil, apiError(ctx, "pipelines", err)
	}
	for _, p := range list {
		whole, err := c.Pipeline(ctx, p.ID)
		if err != nil {
			return nil, apiError(ctx, "pipeline "+strconv.FormatInt(p.Number, 10), err)
		}
		st.Pipelines = append(st.Pipelines, *whole)
	}
	return st, nil
}

func (s *status) print(w io.Writer, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "HOST\tSTATE\tJOBS\tSNAPSHOTS\tTO UPLOAD\tDISK FREE\tLAST HEARD")
	for _, h := range s.Hosts {
		fmt.Fprintf(t, "%s\t%s\t%d of %d\t%d\t%s\t%s\t%s\n", oneLine(h.Name), h.State, h.Running, h.Slots, h.Snapshots,
			size(h.Queue), size(h.DiskFree), heard(now, h.SeenMS))
	}
	if len(s.Pipelines) > 0 {
		fmt.Fprintln(t, "\nPIPELINE\tSTATUS\tTOOK\tENDED\tRUNNING\tWAITING\tPROJECT")
	}
	for _, p := range s.Pipelines {
		var ended, running, waiting int
		for _, j := range p.Jobs {
			switch {
			case j.Status.Ended():
				ended++
			case j.Status == api.StatusRunning || j.Status == api.StatusAssigned:
				running++
			default:
				waiting++
			}
		}
		end := now
		if p.EndedMS != 0 {
			end = time.UnixMilli(p.EndedMS)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d of %d\t%d\t%d\t%s\n", p.Number, p.Status, since(end, p.CreatedMS), ended, len(p.Jobs), running, waiting, oneLine(p.Project))
	}
	return t.Flush()
}

// heard is when a host was last heard of; 0 says that it was not, since the
// coordinator's start.
func heard(now time.Time, ms int64) string {
	if ms == 0 {
		return "-"
	}
	return since(now, ms) + " ago"
}

// since is how long ago something was, for people.
func since(now time.Time, ms int64) string {
	return max(now.Sub(time.UnixMilli(ms)), 0).Round(time.Second).String()
}

// oneLine makes what others have named fit to be shown in a table.
func oneLine(s string) string { return clean([]byte(s), false) }
