//go:build bench && linux

package bench

import (
	"bytes"
	"fmt"
)

// verdict is one thing that the design asks for, and what this run says of it.
type verdict struct {
	asks string
	got  string
	ok   bool
	have bool // there is a figure
}

// verdicts is the table that people read first.
func (b *bench) verdicts(w *bytes.Buffer) {
	fmt.Fprint(w, "| asked for | this run | |\n|---|---|---|\n")
	var all []verdict
	for _, fs := range b.set.fs {
		all = append(all, b.handVerdicts(fs)...)
		for _, tr := range b.trees {
			all = append(all, b.sessionVerdicts(tr, fs)...)
		}
		all = append(all, b.nativeVerdicts(fs)...)
	}
	for _, v := range all {
		if !v.have {
			continue
		}
		word := "**no**"
		if v.ok {
			word = "yes"
		}
		fmt.Fprintf(w, "| %s | %s | %s |\n", v.asks, v.got, word)
	}
	fmt.Fprintln(w)
}

func (b *bench) handVerdicts(fs string) (out []verdict) {
	var none, at100, at1000, together float64
	for _, j := range jobs {
		k := key{Group: "hand", FS: fs, Tree: fmt.Sprintf("%d files", int(handFiles*min(b.set.scale, 1))), Way: j.name, Op: opHand}
		l := walls(b.rec.of(k))
		p50, p99 := quantile(l, 0.5), quantile(l, 0.99)
		switch {
		case j.touch == 0 && j.dirty == 0:
			none = p50
		case j.touch == 100 && !j.other:
			at100 = p50
		case j.touch == 1000 && j.in > 0:
			together = p50
		case j.touch == 1000 && !j.busy:
			at1000 = p50
		}
		out = append(out, verdict{
			fmt.Sprintf("%s: hand-over, the job %s: p50 ≤ 10 ms, p99 ≤ 30 ms", fs, j.name),
			fmt.Sprintf("%.1f ms, %.1f ms", p50, p99), p50 <= 10 && p99 <= 30, len(l) > 0,
		})
	}
	k := key{Group: "hand", FS: fs, Tree: "hand", Way: roostWay.name}
	n := int(handFiles * min(b.set.scale, 1))
	image := b.sum(k, opImage)
	asked := 300 * float64(n) / 100_000
	out = append(out, verdict{fs + ": attach, content here but no image: ≤ 0.3 s for each 100,000 files", fmt.Sprintf("%s s for %d files", secs(image), n), image <= asked, image > 0})
	k.Way = "cp -a --reflink=never"
	copied := b.sum(k, opCopy)
	out = append(out, verdict{fs + ": the same ≥ 10 × faster than cp -a", fmt.Sprintf("cp -a %s s, %s ×", secs(copied), times(copied, image)), copied >= 10*image, image > 0 && copied > 0})
	each := func(what string, more, less float64, files int) {
		us := (more - less) / float64(files) * 1000
		out = append(out, verdict{
			fs + ": hand-over grows by ≤ 2 µs for each file touched, " + what, fmt.Sprintf("%.1f µs", us),
			us <= 2, more > 0 && less > 0,
		})
	}
	each("20 in a directory", together, none, 1000)
	each("each in its own directory", at1000, at100, 900)
	return out
}

// dedups are the peers that store a content once.
var dedups = []string{"restic", "borg, lz4", "borg, zstd -1", "casync"}

func (b *bench) sessionVerdicts(tr *tree, fs string) []verdict {
	k := key{Group: "session", FS: fs, Tree: tr.name, Way: roostWay.name}
	name := tr.name + " on " + fs + ": "
	best := func(of func(k key) float64, names ...string) (string, float64) {
		who, least := "", 0.0
		for _, y := range ways {
			if y.name == roostWay.name || (len(names) > 0 && !contains(names, y.name)) {
				continue
			}
			p := k
			p.Way = y.name
			if v := of(p); v > 0 && (least == 0 || v < least) {
				who, least = y.name, v
			}
		}
		return who, least
	}
	// The clock decides; CPU time beside it says how much of that is the load's doing.
	faster := func(asks string, need, ours float64, who string, theirs float64, ops, others []string) verdict {
		p := k
		mine := b.sumCPU(p, ops...)
		p.Way = who
		return verdict{
			name + asks, fmt.Sprintf("%s s; %s %s s, %s × (CPU %s ×)", secs(ours), who, secs(theirs), times(theirs, ours), times(b.sumCPU(p, others...), mine)),
			theirs >= need*ours, ours > 0 && theirs > 0,
		}
	}
	saved, changed, restored := []string{opSave}, []string{opChange}, []string{opBack}
	var out []verdict
	save := func(k key) float64 { return b.sum(k, opSave) }
	who, v := best(save, dedups...)
	out = append(out, faster("full save ≥ the fastest deduplicating peer", 1, save(k), who, v, saved, saved))
	who, v = best(save, "tar, zstd -1", "squashfs, zstd -1", "zip -1")
	out = append(out, faster("full save, against the fastest archive", 1, save(k), who, v, saved, saved))
	change := func(k key) float64 { return b.sum(k, opChange) }
	who, v = best(change, append([]string{"rsync -a"}, dedups...)...)
	out = append(out, faster("save after the change, against the fastest peer with increments", 1, change(k), who, v, changed, changed))
	stored := median(sizes(b.rec.of(k.of(opChange)))) / float64(max(tr.Changed, 1))
	if most := map[string]float64{"xfs": 1.3, "ext4": 3}[fs]; tr.name == "game" {
		out = append(out, verdict{fmt.Sprintf("%sstored after the change ≤ %.1f × what changed", name, most), fmt.Sprintf("%.2f ×", stored), stored <= most, b.rec.has(k.of(opChange))})
	}
	same := b.sum(k, opSame)
	limit := max(300*float64(tr.files)/100_000, 100) // a process starts and commits, however small the tree
	out = append(out, verdict{name + "unchanged save ≤ 0.3 s for each 100,000 files", fmt.Sprintf("%s s for %d files (%.3f asked)", secs(same), tr.files, limit/1000), same <= limit, same > 0 && tr.name != "game"})
	back := func(k key) float64 { return b.sum(k, opBack) }
	who, v = best(back)
	out = append(out, faster("cold restore to a directory, against the fastest peer", 1, back(k), who, v, restored, restored))
	need := 1.0
	if tr.name == "node" {
		need = 2
	}
	all := func(k key) float64 {
		if m := b.sum(k, opMount, opRead); m > 0 {
			return m
		}
		return b.sum(k, opBack, opReadDir)
	}
	who, v = best(back)
	out = append(out, faster(fmt.Sprintf("cold restore to a mounted view, against the fastest peer's restore ≥ %.0f ×", need), need, b.sum(k, opMount), who, v, []string{opMount}, restored))
	who, v = best(all)
	read := []string{opBack, opReadDir}
	if p := (key{k.Group, k.FS, k.Tree, who, opMount}); b.rec.has(p) {
		read = []string{opMount, opRead}
	}
	return append(out, faster(fmt.Sprintf("cold restore to a mounted view and all of it read, against the fastest peer's ≥ %.0f ×", need), need, all(k), who, v, []string{opMount, opRead}, read))
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

func (b *bench) nativeVerdicts(fs string) (out []verdict) {
	for _, n := range natively {
		most := 1.05
		if n.name == "git status" {
			most = 1.2
		}
		k := key{Group: "native", FS: fs, Tree: "go", Way: plainly, Op: n.name}
		p := b.rec.medianWall(k)
		k.Way = roostWay.name
		v := b.rec.medianWall(k)
		out = append(out, verdict{fmt.Sprintf("%s: %s in a view ≤ %.2f × the plain directory", fs, n.name, most), fmt.Sprintf("%.2f ×", v/max(p, 0.001)), v <= most*p, p > 0 && v > 0})
	}
	return out
}
