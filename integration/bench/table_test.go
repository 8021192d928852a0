//go:build bench && linux

package bench

import (
	"bytes"
	"fmt"
	"strings"
)

func cut(s, sep string) (before, after string, ok bool) { return strings.Cut(s, sep) }

// markdown is the tables of a run.
func (b *bench) markdown() []byte {
	var w bytes.Buffer
	b.header(&w)
	b.verdicts(&w)
	for _, tr := range b.trees {
		for _, fs := range b.set.fs {
			b.sessionTable(&w, tr, fs)
		}
	}
	b.handTable(&w)
	b.nativeTable(&w)
	b.gitlabTable(&w)
	b.commands(&w)
	b.failures(&w)
	return w.Bytes()
}

func (b *bench) header(w *bytes.Buffer) {
	var loads []float64
	for _, s := range b.rec.all {
		loads = append(loads, each(s.Samples, func(s sample) float64 { return s.Load })...)
	}
	a := b.about
	dirty := ""
	if a.Dirty {
		dirty = " with changes that were not committed"
	}
	fmt.Fprintf(w, "Run of %s at commit %s%s, %s, driver %s; %d cores (%s), %s, Linux %s; load of the machine median %.1f, most %.1f, the bench at nice %d.\n\n",
		a.Start, a.Commit, dirty, a.Go, a.Driver, a.Cores, a.CPU, a.Memory, a.Kernel, median(loads), quantile(loads, 1), a.Nice)
	for _, t := range a.Trees {
		fmt.Fprintf(w, "- %s\n", t)
	}
	fmt.Fprintln(w)
}

// sessionTable is all ways with one tree on one file system. Ratios are to the
// first row, and above 1 where Roost is faster.
func (b *bench) sessionTable(w *bytes.Buffer, tr *tree, fs string) {
	k := key{Group: "session", FS: fs, Tree: tr.name}
	var rows []way
	for _, y := range ways {
		k.Way = y.name
		if len(b.rec.of(k.of(opSave))) > 0 {
			rows = append(rows, y)
		}
	}
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(w, "#### %s, %d files, %.0f MB, on %s\n\n", tr.name, tr.files, mb(tr.bytes), fs)
	fmt.Fprintf(w, "Changed: %d files, %.1f MB. Seconds until it is on the disk (CPU seconds); × is to Roost.\n\n", tr.Touched, mb(tr.Changed))
	fmt.Fprint(w, "| way | n | full save | × | MB | unchanged | × | changed | × | MB | ÷ changed | restore | × | and read all | × |\n")
	fmt.Fprint(w, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	k.Way = roostWay.name
	base := func(ops ...string) float64 { return b.sum(k, ops...) }
	whole := base(opMount, opRead)
	for _, y := range rows {
		r := key{Group: "session", FS: fs, Tree: tr.name, Way: y.name}
		cell := func(op string) string {
			if !b.rec.has(r.of(op)) {
				return "–"
			}
			l := b.rec.of(r.of(op))
			return fmt.Sprintf("%s (%s)", secs(median(walls(l))), secs(median(cpus(l))))
		}
		same := cell(opSame)
		if y.whole {
			same = "all again"
		}
		stored := median(sizes(b.rec.of(r.of(opChange))))
		fmt.Fprintf(w, "| %s | %d | %s | %s | %.1f | %s | %s | %s | %s | %.2f | %.2f | %s | %s | %s | %s |\n", y.name, len(b.rec.of(r.of(opSave))),
			cell(opSave), times(b.sum(r, opSave), base(opSave)), median(sizes(b.rec.of(r.of(opSave))))/1e6,
			same, times(b.sum(r, opSame), base(opSame)), cell(opChange), times(b.sum(r, opChange), base(opChange)), stored/1e6, stored/float64(max(tr.Changed, 1)),
			cell(opBack), times(b.sum(r, opBack), base(opBack)), sumCell(b.sum(r, opBack, opReadDir)), times(b.sum(r, opBack, opReadDir), whole))
		if y.mount != "" {
			fmt.Fprintf(w, "| %s, mounted | %d | | | | | | | | | | %s | %s | %s | %s |\n", y.name, len(b.rec.of(r.of(opMount))),
				cell(opMount), times(b.sum(r, opMount), base(opMount)), sumCell(b.sum(r, opMount, opRead)), times(b.sum(r, opMount, opRead), whole))
		}
	}
	if l := b.rec.of(k.of(opMount)); len(l) > 0 {
		late := make([]float64, len(l))
		for i := range l {
			late[i] = l[i].Sync
		}
		fmt.Fprintf(w, "\nMounted: until it can be used. Roost's is on the disk %s s later.\n", secs(median(late)))
	}
	fmt.Fprintln(w)
}

// sum adds the medians of some operations; 0 if one of them has none.
func (b *bench) sum(k key, ops ...string) (sum float64) {
	for _, op := range ops {
		if !b.rec.has(k.of(op)) {
			return 0
		}
		sum += b.rec.medianWall(k.of(op))
	}
	return sum
}

// sumCPU is sum of CPU time.
func (b *bench) sumCPU(k key, ops ...string) (sum float64) {
	for _, op := range ops {
		sum += median(cpus(b.rec.of(k.of(op))))
	}
	return sum
}

func sumCell(ms float64) string {
	if ms == 0 {
		return "–"
	}
	return secs(ms)
}

func secs(ms float64) string {
	if ms < 10_000 {
		return fmt.Sprintf("%.3f", ms/1000)
	}
	return fmt.Sprintf("%.1f", ms/1000)
}

// times is how often base fits into v; bold where Roost is slower.
func times(v, base float64) string {
	if v == 0 || base == 0 {
		return "–"
	}
	x := v / base
	switch {
	case x >= 100:
		return fmt.Sprintf("%.0f", x)
	case x >= 10:
		return fmt.Sprintf("%.1f", x)
	case x < 0.995:
		return fmt.Sprintf("**%.2f**", x)
	default:
		return fmt.Sprintf("%.2f", x)
	}
}

// commands says what exactly was run.
func (b *bench) commands(w *bytes.Buffer) {
	if !b.rec.any("session") {
		return
	}
	fmt.Fprint(w, "#### What was run\n\n| way | save | restore | its trees are compared without |\n|---|---|---|---|\n")
	code := func(s string) string {
		if s == "" {
			return ""
		}
		s = strings.Join(strings.Fields(strings.ReplaceAll(s, "\n", "; ")), " ")
		return "`" + strings.ReplaceAll(strings.ReplaceAll(s, "|", "\\|"), ";;", ";") + "`"
	}
	for _, y := range ways {
		var without []string
		if y.seconds {
			without = append(without, "fractions of seconds")
		}
		if y.links {
			without = append(without, "times of symlinks")
		}
		lost := strings.Join(without, ", ")
		save, back := code(y.save), code(y.back)
		if y.again != "" {
			save += "; again: " + code(y.again)
		}
		if y.mount != "" {
			back += "; mounted: "
			if y.ready != "" {
				back += "after " + code(y.ready) + ": "
			}
			back += code(y.mount)
		}
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", y.name, save, back, lost)
	}
	fmt.Fprintf(w, "\n%s.\n\n", strings.Join(b.about.Tools, "; "))
}

// failures are the things that have no figure, and why.
func (b *bench) failures(w *bytes.Buffer) {
	first := true
	for _, s := range b.rec.all {
		if s.Err == "" {
			continue
		}
		if first {
			fmt.Fprint(w, "#### What failed\n\n")
			first = false
		}
		fmt.Fprintf(w, "- %s: %s\n", s.key, strings.ReplaceAll(s.Err, b.set.dir, "…"))
	}
}
