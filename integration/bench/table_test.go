//go:build bench && linux

package bench

import (
	"fmt"
	"io"
	"slices"
	"time"
)

// row is all samples of one way of one task on one tree.
type row struct {
	tree, way string
	samples   []sample
}

// table is all rows of one task. The first row of each tree is what the ratios of
// that tree are to.
type table struct {
	title string
	rows  []*row
}

func (tb *table) row(tree, way string) *row {
	for _, r := range tb.rows {
		if r.tree == tree && r.way == way {
			return r
		}
	}
	r := &row{tree: tree, way: way}
	tb.rows = append(tb.rows, r)
	return r
}

func median[T int64 | float64 | time.Duration](samples []sample, of func(sample) T) T {
	var v []T
	for _, s := range samples {
		v = append(v, of(s))
	}
	slices.Sort(v)
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

func wall(s sample) time.Duration { return s.wall }

// markdown writes the table. Times are milliseconds.
func (tb *table) markdown(w io.Writer) {
	fmt.Fprintf(w, "### %s\n\n", tb.title)
	fmt.Fprint(w, "| tree | way | ms | min–max | × | CPU ms | × CPU | + sync ms | then read all, ms | MB |\n")
	fmt.Fprint(w, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	var first *row
	for _, r := range tb.rows {
		name := ""
		if first == nil || first.tree != r.tree {
			first, name = r, r.tree
		}
		lo := slices.MinFunc(r.samples, func(a, b sample) int { return int(a.wall - b.wall) }).wall
		hi := slices.MaxFunc(r.samples, func(a, b sample) int { return int(a.wall - b.wall) }).wall
		cpu := func(s sample) time.Duration { return s.cpu }
		fmt.Fprintf(w, "| %s | %s | %s | %s–%s | %s | %s | %s | %s | %s | %s |\n", name, r.way,
			ms(median(r.samples, wall)), ms(lo), ms(hi),
			times(median(r.samples, wall), median(first.samples, wall)),
			ms(median(r.samples, cpu)), times(median(r.samples, cpu), median(first.samples, cpu)),
			orDash(median(r.samples, func(s sample) time.Duration { return s.sync })),
			orDash(median(r.samples, func(s sample) time.Duration { return s.read })),
			megabytes(median(r.samples, func(s sample) int64 { return s.bytes })))
	}
	fmt.Fprintln(w)
}

func ms(d time.Duration) string {
	f := float64(d) / 1e6
	if f < 100 {
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

func orDash(d time.Duration) string {
	if d == 0 {
		return "–"
	}
	return ms(d)
}

func megabytes(n int64) string {
	switch {
	case n == 0:
		return "–"
	case n < 10e6:
		return fmt.Sprintf("%.3f", float64(n)/1e6)
	default:
		return fmt.Sprintf("%.1f", float64(n)/1e6)
	}
}

func times(d, base time.Duration) string {
	if base == 0 {
		return "–"
	}
	x := float64(d) / float64(base)
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}
