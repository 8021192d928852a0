//go:build bench && linux

package bench

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
)

// TestCompare does all tasks in all ways on all trees and prints the tables.
func TestCompare(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	set := readSettings(t)
	list := tasks(t)
	if set.profile != "" {
		for i := range list {
			list[i].ways = slices.DeleteFunc(list[i].ways, func(w way) bool { return !strings.HasPrefix(w.name, "Roost") })
		}
	}
	tables := make([]*table, len(list))
	for i, k := range list {
		tables[i] = &table{title: k.title}
	}
	var seen []string
	for _, sh := range shapes() {
		if len(set.trees) > 0 && !slices.Contains(set.trees, sh.name) {
			continue
		}
		t.Run(sh.name, func(t *testing.T) { // so that it cleans up before the next
			l := newLab(t, set, sh)
			seen = append(seen, fmt.Sprintf("%s: %d files of %d entries, %.0f MB", sh.name, len(l.exact.files),
				len(l.exact.lines), float64(l.exact.bytes)/1e6))
			for l.round = range set.runs {
				l.doRound(list, tables)
				fmt.Fprintf(os.Stderr, "%s: round %d of %d done\n", sh.name, l.round+1, set.runs)
			}
			report(t, set, seen, tables)
		})
	}
	require.NotEmpty(t, seen, "no such trees: %v", set.trees)
	if !t.Failed() {
		_, err := os.Stdout.Write(report(t, set, seen, tables))
		require.NoError(t, err)
	}
}

// report is all that is known so far, as Markdown. It is written down after each
// tree, since a long run may be broken off.
func report(t *testing.T, set settings, seen []string, tables []*table) []byte {
	var b bytes.Buffer
	header(t, &b, set, seen, tables)
	for _, tb := range tables {
		tb.markdown(&b)
	}
	if set.out != "" {
		require.NoError(t, os.WriteFile(set.out, b.Bytes(), 0o644))
	}
	return b.Bytes()
}

// doRound does every way once. Which way comes first goes round, so that none
// always runs after the same other one.
func (l *lab) doRound(list []task, tables []*table) {
	l.change()
	for i, k := range list {
		samples := make([]sample, len(k.ways))
		for j := range k.ways {
			n := (j + l.round) % len(k.ways)
			samples[n] = k.ways[n].run(l)
		}
		for n, w := range k.ways {
			r := tables[i].row(l.shape, w.name)
			r.samples = append(r.samples, samples[n])
		}
	}
}

// header says what was measured on what, so that a table never stands alone.
func header(t *testing.T, w io.Writer, set settings, trees []string, tables []*table) {
	var all []sample
	for _, tb := range tables {
		for _, r := range tb.rows {
			all = append(all, r.samples...)
		}
	}
	var u unix.Utsname
	require.NoError(t, unix.Uname(&u))
	fmt.Fprintf(w, "Medians of %d alternating runs, warm page cache; times in ms; × is to the first row of a tree.\n", set.runs)
	fmt.Fprintf(w, "Commit %s; %s, %d cores, Linux %s, %s; load median %.1f, most %.1f.\n",
		output("git", "rev-parse", "--short", "HEAD"), runtime.Version(), runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]),
		set.disk(),
		median(all, func(s sample) float64 { return s.load }),
		slices.MaxFunc(all, func(a, b sample) int { return int(100 * (a.load - b.load)) }).load)
	fmt.Fprintf(w, "%s; %s; %s.\n", output("cp", "--version"), output("rsync", "--version"), output("zstd", "--version"))
	fmt.Fprintf(w, "Trees: %s.\n\n", strings.Join(trees, "; "))
}

// output is the first line that a program prints.
func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return name + ": none"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return strings.Trim(line, "* ")
}
