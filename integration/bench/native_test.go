//go:build bench && linux

package bench

import (
	"bytes"
	"fmt"
	"path/filepath"
)

// What a job does in a tree, warm. Each is done in turns in the view and in the
// plain directory, at the same path.
var natively = []struct{ name, script string }{
	{"git status", `cd "$AT/src"; git status --porcelain > /dev/null`},
	{"go build, nothing to do", `cd "$AT/src"; go build $BUILD`},
	{"go build after a change", `cd "$AT/src"; echo "// $STAMP" >> snapshot/tree/diff.go; go build $BUILD`},
	{"walk, stat and read all", `cd "$AT"; tar -cf - . | cat > /dev/null`},
}

const plainly = "plain directory"

// natives compares the Go tree in a view with the same on the plain file system.
func (b *bench) natives() {
	for _, tr := range b.trees {
		if tr.name != "go" {
			continue
		}
		for _, fs := range b.set.fs {
			b.nativeOn(tr, fs)
		}
	}
}

func (b *bench) nativeOn(tr *tree, fs string) {
	d := newDisk(b.t, b.set, fs, 4+2*tr.gib)
	defer d.remove()
	h := newHost(b.t, b.set.driver, filepath.Join(d.dir, "store"))
	defer h.close()
	plain := filepath.Join(d.dir, "plain")
	must(b.t, `cp -a "$V1" "$PLAIN"`, "V1="+tr.v1, "PLAIN="+plain)
	id := h.fill(`cp -a "$V1/." "$DST/"`, "V1="+tr.v1)
	h.work()
	_, target := h.prepare(id)
	h.pause()
	build := "./..."
	if b.set.quick {
		build = "./snapshot/tree ./snapshot/pack"
	}
	rounds := 2 + min(b.set.rounds, 3)
	for i := range rounds + 1 {
		for j := range 2 {
			dir, way := target, roostWay.name
			if (i+j)%2 == 0 {
				dir, way = plain, plainly
			}
			underPath(b.t, b.set, dir, func() {
				for _, n := range natively {
					k := key{Group: "native", FS: fs, Tree: tr.name, Way: way, Op: n.name}
					env := goEnv(b.set, "BUILD="+build, fmt.Sprintf("STAMP=%d", i))
					s, err := measuredOnly(b.t.Context(), d, n.script, env)
					if err != nil {
						b.rec.failed(k, err)
					} else if i > 0 { // the first round warms up
						b.rec.add(k, s)
					}
				}
			})
		}
	}
}

// nativeTable is views and plain directories side by side.
func (b *bench) nativeTable(w *bytes.Buffer) {
	if !b.rec.any("native") {
		return
	}
	fmt.Fprint(w, "#### A job's own speed in a view of the go tree, warm\n\nMilliseconds (CPU), medians.\n\n| fs | what | n | plain directory | view | view ÷ plain | CPU ÷ CPU |\n|---|---|--:|--:|--:|--:|--:|\n")
	for _, fs := range b.set.fs {
		for _, n := range natively {
			k := key{Group: "native", FS: fs, Tree: "go", Way: plainly, Op: n.name}
			plain := b.rec.of(k)
			k.Way = roostWay.name
			in := b.rec.of(k)
			if len(plain) == 0 || len(in) == 0 {
				continue
			}
			p, v, pc, vc := median(walls(plain)), median(walls(in)), median(cpus(plain)), median(cpus(in))
			fmt.Fprintf(w, "| %s | %s | %d | %.1f (%.1f) | %.1f (%.1f) | %.2f | %.2f |\n", fs, n.name, len(in), p, pc, v, vc, v/p, vc/pc)
		}
	}
	fmt.Fprintln(w)
}
