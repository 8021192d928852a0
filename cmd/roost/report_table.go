package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot/view"
)

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
