package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/durable"
	"github.com/roost-ci/roost/snapshot/view"
)

// runReport is what --report writes. Scripts rely on it: fields are
// added, never changed.
type runReport struct {
	Pipeline string      `json:"pipeline"`
	Number   int64       `json:"number"`
	Project  string      `json:"project"`
	Status   api.Status  `json:"status"`
	WallMS   int64       `json:"wall_ms"`
	Jobs     []jobReport `json:"jobs"`
	Saved    saving      `json:"saved"`
}

// jobReport is one job. StartMS counts from the pipeline's creation.
type jobReport struct {
	Name     string     `json:"name"`
	Attempt  int        `json:"attempt"`
	Host     string     `json:"host"`
	Status   api.Status `json:"status"`
	Code     api.Code   `json:"code,omitempty"`
	Reason   string     `json:"reason,omitempty"`
	ExitCode int        `json:"exit_code"`
	// AllowedToFail: if it failed, the pipeline is as green as without it.
	AllowedToFail bool            `json:"allow_failure,omitempty"`
	StartMS       int64           `json:"start_ms"`
	RunMS         int64           `json:"run_ms"`
	Workspace     workspaceReport `json:"workspace"`
}

// workspaceReport is what a job found and moved. Bytes are counted where they
// move: at sockets and at the store's write calls.
type workspaceReport struct {
	State        string   `json:"state"`
	Origin       string   `json:"origin"`
	Source       string   `json:"source"`
	Code         api.Code `json:"code"`
	Reason       string   `json:"reason"`
	Snapshot     string   `json:"snapshot"`
	Inputs       []string `json:"inputs"`
	Driver       string   `json:"driver"`
	BytesNeeded  int64    `json:"bytes_needed"`
	BytesMoved   int64    `json:"bytes_moved"`
	BytesWritten int64    `json:"bytes_written"`
	AttachMS     float64  `json:"attach_ms"`
	SealMS       float64  `json:"seal_ms"`
}

// saving compares the run with passing the same trees as zstd archives.
type saving struct {
	// BytesNotMoved is what jobs needed less what was moved for them: counted.
	BytesNotMoved int64 `json:"bytes_not_moved"`
	// EstimatedMS is the time to encode, once for each job that hands its tree on,
	// that tree as a zstd archive, at EncodeRate. An estimate: decoding, uploading
	// and downloading come on top and are left out.
	EstimatedMS int64 `json:"estimated_ms"`
	// EncodeRate is plain bytes per second, measured while this run's own layers
	// were encoded; 0 when they were too small for that, and then there is no estimate.
	EncodeRate float64 `json:"encode_rate"`
}

func newReport(p *api.Pipeline) *runReport {
	r := &runReport{Pipeline: p.ID, Number: p.Number, Project: p.Project, Status: p.Status, Jobs: []jobReport{}}
	if p.EndedMS > 0 {
		r.WallMS = p.EndedMS - p.CreatedMS
	}
	for _, j := range p.Jobs {
		w := j.Workspace
		jr := jobReport{
			Name: j.Name, Attempt: j.Attempt, Host: j.Host, Status: j.Status, Code: j.Code, Reason: j.Reason,
			ExitCode: j.ExitCode, AllowedToFail: j.AllowFailure, RunMS: j.RunMS,
			Workspace: workspaceReport{
				State: w.State, Origin: w.Origin, Source: w.Source, Code: w.Code, Reason: w.Reason,
				Snapshot: string(w.Output), Inputs: w.Inputs, Driver: w.Driver, BytesNeeded: w.BytesNeeded,
				BytesMoved: w.BytesMoved, BytesWritten: w.BytesWritten, AttachMS: w.AttachMS, SealMS: w.SealMS,
			},
		}
		if j.StartMS > 0 {
			jr.StartMS = j.StartMS - p.CreatedMS
		}
		if jr.Workspace.Inputs == nil {
			jr.Workspace.Inputs = []string{}
		}
		r.Jobs = append(r.Jobs, jr)
	}
	r.Saved = savings(p)
	return r
}

// minSample is the least that must have been encoded for its rate to mean anything.
const minSample = 1 << 20

// savings is the comparison with archives.
func savings(p *api.Pipeline) saving {
	var s saving
	var plain, ms float64
	handsOn := map[string]int64{} // output -> bytes of its tree, for outputs that a job started from
	for _, j := range p.Jobs {
		w := j.Workspace
		plain += float64(j.Layer.PlainBytes)
		ms += j.Layer.EncodeMS
		if w.State != api.StateFull || w.Origin == api.OriginNone || w.Origin == "" {
			continue
		}
		s.BytesNotMoved += max(0, w.BytesNeeded-w.BytesMoved)
		for _, in := range w.Inputs {
			handsOn[in] = max(handsOn[in], w.BytesNeeded/int64(len(w.Inputs)))
		}
	}
	for _, j := range p.Jobs {
		if _, ok := handsOn[string(j.Workspace.Output)]; ok && j.Layer.TreeBytes > 0 {
			handsOn[string(j.Workspace.Output)] = j.Layer.TreeBytes
		}
	}
	if plain >= minSample && ms > 0 {
		s.EncodeRate = plain / ms * 1000
		for _, n := range handsOn {
			s.EstimatedMS += int64(float64(n) / s.EncodeRate * 1000)
		}
	}
	return s
}

func (r *runReport) write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (r *runReport) save(path string) error {
	if err := durable.WriteFile(path, 0o644, r.write); err != nil {
		return &exitError{code: exitUsage, err: fmt.Errorf("report: %w", err)}
	}
	return nil
}

// printTable prints what a person wants to know at the end.
func printTable(w io.Writer, p *api.Pipeline, r *runReport) {
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "JOB\tSTATUS\tHOST\tWORKSPACE\tATTACH\tRUN\tSEAL")
	for _, j := range r.Jobs {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", j.Name, statusCell(j), dash(j.Host), workspaceCell(j.Workspace),
			millis(j.Workspace.AttachMS), millis(float64(j.RunMS)), millis(j.Workspace.SealMS))
	}
	t.Flush() //nolint:errcheck // standard output is gone: nobody to tell
	fmt.Fprintf(w, "\npipeline %d: %s in %s\n", p.Number, p.Status, millis(float64(r.WallMS)))
	for _, j := range r.Jobs {
		if j.Status == api.StatusFailed && j.Reason != "" {
			fmt.Fprintf(w, "%s: %s\n", j.Name, reasonLines(j.Reason))
		}
	}
	if r.Saved.BytesNotMoved > 0 {
		fmt.Fprintln(w, savedLine(r.Saved))
	}
}

// reasonLines puts each of the ways out of a merge conflict on a line of its own.
func reasonLines(reason string) string {
	what, ways, ok := strings.Cut(reason, threeWays)
	if !ok {
		return reason
	}
	return what + ". Three ways out:\n  - " + strings.ReplaceAll(strings.ReplaceAll(ways, "; or ", "; "), "; ", "\n  - ")
}

func savedLine(s saving) string {
	line := "not moved: " + humanize.IBytes(uint64(s.BytesNotMoved))
	if s.EncodeRate == 0 {
		return line + "; too little was encoded in this run to estimate the time saved"
	}
	return fmt.Sprintf("%s; not spent: about %s of packing the same trees with zstd\n"+
		"(an estimate, at the %s/s that this run's layers were packed with; moving and unpacking come on top)",
		line, millis(float64(s.EstimatedMS)), humanize.IBytes(uint64(s.EncodeRate)))
}

func statusCell(j jobReport) string {
	s := string(j.Status)
	if j.AllowedToFail && j.Status == api.StatusFailed {
		s += " (allowed)"
	}
	if j.Attempt > 1 {
		s += fmt.Sprintf(" (attempt %d)", j.Attempt)
	}
	return s
}

// workspaceCell is "local: parent", "fetched 212 MiB: merged", "cold: …".
func workspaceCell(w workspaceReport) string {
	what := ""
	switch {
	case w.State == "":
		return "-"
	case w.State == api.StateFresh || w.Origin == api.OriginNone:
		what = "cold"
	case w.Source == api.SourceLocal && w.BytesMoved == 0:
		what = "local"
	case w.Source == api.SourceLocal:
		what = "copied " + humanize.IBytes(uint64(w.BytesMoved))
	case w.BytesWritten > 0 && w.Driver == view.NameCopy:
		what = "moved " + humanize.IBytes(uint64(w.BytesMoved)) // over the network and by copying
	default:
		what = "fetched " + humanize.IBytes(uint64(w.BytesMoved))
	}
	if reason := strings.TrimPrefix(w.Reason, "cold: "); reason != "" {
		what += ": " + reason
	}
	return shorten(what, maxCell)
}

// maxCell is the widest cell of the table, in characters: a job may have fifty parents.
const maxCell = 64

// shorten cuts a line to so many cells of a terminal.
func shorten(s string, most int) string {
	n, fits := 0, 0 // fits: what leaves room for the dots
	for i, r := range s {
		if n+cells(r) < most {
			fits = i + utf8.RuneLen(r)
		}
		if n += cells(r); n > most {
			return s[:fits] + "…"
		}
	}
	return s
}

// width is how many cells s takes.
func width(s string) int {
	n := 0
	for _, r := range s {
		n += cells(r)
	}
	return n
}

// cells is how wide a terminal shows a character: two for those of East Asia and
// for pictures, as far as a progress line has to know.
func cells(r rune) int {
	switch {
	case r < 0x1100:
		return 1
	case r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3, r >= 0xf900 && r <= 0xfaff,
		r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60, r >= 0xffe0 && r <= 0xffe6,
		r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// millis shows a duration in milliseconds with the digits that matter.
func millis(ms float64) string {
	switch d := time.Duration(ms * float64(time.Millisecond)); {
	case ms == 0:
		return "-"
	case ms < 10:
		return fmt.Sprintf("%.1fms", ms)
	case ms < 1000:
		return fmt.Sprintf("%.0fms", ms)
	case ms < 60_000:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
