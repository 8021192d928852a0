package install

import (
	"fmt"
	"strings"
)

// context is how many lines a diff shows around a change.
const context = 3

// maxCells bounds the work of a diff; beyond it all lines count as changed.
const maxCells = 16 << 20

// Diff is the unified diff of two texts, "" if they are the same. Lines keep their ends.
func Diff(fromName, toName string, before, after []byte) string {
	a, b := splitLines(string(before)), splitLines(string(after))
	ops := script(a, b)
	var out strings.Builder
	for i := 0; i < len(ops); {
		if ops[i].kind == ' ' {
			i++
			continue
		}
		from := max(0, i-context)
		to, quiet := i, 0
		for ; to < len(ops) && quiet <= 2*context; to++ {
			if quiet++; ops[to].kind != ' ' {
				quiet = 0
			}
		}
		if quiet > 0 {
			to -= max(0, quiet-context)
		}
		if out.Len() == 0 {
			fmt.Fprintf(&out, "--- %s\n+++ %s\n", fromName, toName)
		}
		hunk(&out, ops[from:to])
		i = to
	}
	return out.String()
}

// op is a line that stays (' '), goes ('-') or comes ('+').
type op struct {
	kind byte
	line string
	a, b int // numbers of the lines before it
}

func hunk(out *strings.Builder, ops []op) {
	var n, m int
	for _, o := range ops {
		if o.kind != '+' {
			n++
		}
		if o.kind != '-' {
			m++
		}
	}
	first := func(at, count int) int {
		if count == 0 {
			return at
		}
		return at + 1
	}
	fmt.Fprintf(out, "@@ -%d,%d +%d,%d @@\n", first(ops[0].a, n), n, first(ops[0].b, m), m)
	for _, o := range ops {
		out.WriteByte(o.kind)
		out.WriteString(o.line)
		if !strings.HasSuffix(o.line, "\n") {
			out.WriteString("\n\\ No newline at end of file\n")
		}
	}
}

// splitLines gives lines with their ends.
func splitLines(s string) []string {
	lines := strings.SplitAfter(s, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// script is a shortest way from a to b by a table of common subsequences.
func script(a, b []string) []op {
	if (len(a)+1)*(len(b)+1) > maxCells {
		var all []op
		for i, l := range a {
			all = append(all, op{'-', l, i, 0})
		}
		for i, l := range b {
			all = append(all, op{'+', l, len(a), i})
		}
		return all
	}
	w := len(b) + 1
	t := make([]int32, (len(a)+1)*w) // t[i][j]: common lines of a[i:] and b[j:]
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				t[i*w+j] = t[(i+1)*w+j+1] + 1
			} else {
				t[i*w+j] = max(t[(i+1)*w+j], t[i*w+j+1])
			}
		}
	}
	var out []op
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			out = append(out, op{' ', a[i], i, j})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && t[(i+1)*w+j] >= t[i*w+j+1]:
			out = append(out, op{'-', a[i], i, j})
			i++
		default:
			out = append(out, op{'+', b[j], i, j})
			j++
		}
	}
	return out
}
