//go:build bench && linux

package bench

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
)

// The tree that is handed over: many small files in directories of 100, and a few
// large ones.
const (
	handFiles = 100_000
	handSmall = 8 << 10
	handLarge = 210 << 20
	handBig   = 16 // of the large ones
)

// job is what the job before a hand-over did, and what else goes on.
type job struct {
	name  string
	touch int   // files of the tree that it wrote to
	in    int   // how many of them are in one directory, 0: each is in one of its own
	dirty int64 // bytes that it wrote besides, which are not on the disk yet
	busy  bool  // the layer of the job before is still being packed, and so on
	other bool  // another slot writes and syncs the file system meanwhile
	few   bool  // a tenth of the hand-overs: it takes long
}

var jobs = []job{
	{name: "touched nothing"},
	{name: "touched 100 files", touch: 100},
	{name: "touched 1,000 files, 20 in a directory", touch: 1000, in: 20},
	{name: "touched 1,000 files, each in its own directory", touch: 1000},
	{name: "touched 1,000 files, each in its own directory, packing goes on", touch: 1000, busy: true},
	{name: "touched 100 files, another slot syncs", touch: 100, other: true},
	{name: "wrote 4 GiB", dirty: 4 << 30, few: true},
}

// Operations of the group hand.
const (
	opSeal   = "seal"
	opAttach = "attach"
	opHand   = "seal and attach"
	opCopy   = "copy"
	opImage  = "attach, image not cached"
)

// handOvers does all jobs on each file system.
func (b *bench) handOvers() {
	for _, fs := range b.set.fs {
		b.handOverOn(fs)
		b.report()
	}
}

func (b *bench) handOverOn(fs string) {
	d := newDisk(b.t, b.set, fs, 16)
	defer d.remove()
	k := key{Group: "hand", FS: fs, Tree: "hand", Way: roostWay.name}
	files := int(handFiles * min(b.set.scale, 1))
	h := newHost(b.t, b.set.driver, filepath.Join(d.dir, "store"))
	defer h.close()
	id, target := h.prepare("")
	said(b.t, b.makeHand(target, files), "tree of the hand-over")
	h.seal(id)
	h.packed(id)
	logf("hand-over on %s: the tree is packed", fs)
	for _, j := range jobs {
		b.handOver(h, d, k, id, j, files)
		b.report()
	}
	b.imageNotCached(h, k, id)
	b.copyOf(h, d, k, id)
}

// makeHand makes the tree. Its content compresses well: only names count here.
func (b *bench) makeHand(dir string, files int) error {
	small := bytes.Repeat([]byte("handed over\n"), handSmall/12)
	for i := range files {
		d := filepath.Join(dir, fmt.Sprintf("part-%02d/unit-%03d", i/10_000, i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(handFile(dir, i), append(small, fmt.Sprint(i)...), 0o644); err != nil {
			return err
		}
	}
	big := bytes.Repeat([]byte("a large file\n"), 1<<16)
	for i := range handBig {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("large-%d", i)))
		if err != nil {
			return err
		}
		for n := 0; n < int(handLarge*min(b.set.scale, 1)); n += len(big) {
			if _, err := f.Write(big); err != nil {
				return err
			}
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func handFile(dir string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("part-%02d/unit-%03d/file-%d", i/10_000, i/100, i))
}

// handOver has one job after the other, each on what the one before left, until
// there are enough. What a job does is not measured, what follows it is.
func (b *bench) handOver(h *host, d *disk, k key, base snapshot.ID, j job, files int) {
	n := b.set.hands
	if j.few {
		n = max(3, n/10)
	}
	if j.dirty == 0 { // packing that much would take longer than all the rest
		h.work()
		defer h.pause()
	}
	if j.other {
		defer b.otherSlot(h)()
	}
	id, target := h.prepare(base)
	var made []snapshot.ID
	k.Tree = fmt.Sprintf("%d files", files)
	for i := range n {
		said(b.t, b.doJob(target, j, files, i), "job")
		if !j.other && j.dirty == 0 { // what a job wrote long ago is on the disk
			_, err := d.sync()
			said(b.t, err, "sync")
		}
		s := timed(func() { h.seal(id) })
		made = append(made, id)
		a := timed(func() { id, target = h.prepare(id) })
		if j.dirty == 0 && !j.busy { // the job after this one takes its time
			h.packed(made[len(made)-1])
			idle()
		}
		b.rec.add(key{k.Group, k.FS, k.Tree, j.name, opSeal}, s)
		b.rec.add(key{k.Group, k.FS, k.Tree, j.name, opAttach}, a)
		b.rec.add(key{k.Group, k.FS, k.Tree, j.name, opHand}, sample{Wall: s.Wall + a.Wall, CPU: s.CPU + a.CPU, Load: s.Load})
		if j.dirty > 0 { // nothing stands on it, so that the disk does not fill
			h.discard(id)
			h.drop(made[len(made)-1])
			made = made[:len(made)-1]
			_, err := d.sync()
			said(b.t, err, "sync")
			id, target = h.prepare(base)
		}
	}
	said(b.t, b.stillThere(target, files, n, j), "after %s", j.name)
	h.discard(id)
	for i := len(made) - 1; i >= 0; i-- {
		h.drop(made[i])
	}
	l := walls(b.rec.of(key{k.Group, k.FS, k.Tree, j.name, opHand}))
	logf("hand-over on %s, %s: p50 %.1f ms, p99 %.1f ms", k.FS, j.name, quantile(l, 0.5), quantile(l, 0.99))
}

// idle waits until this process has nothing left to do, such as making an image of
// what was sealed; five seconds at most.
func idle() {
	for range 100 {
		before := cpuTime()
		time.Sleep(50 * time.Millisecond)
		if cpuTime()-before < 3*time.Millisecond {
			return
		}
	}
}

// file is which one a job writes to as its i-th: others each time, spread over the tree.
func (j job) file(i, files, round int) int {
	in := max(j.in, 1)
	return (i/in*(files/(j.touch/in)) + round*in + i%in) % files
}

// doJob is what a job does to its view.
func (b *bench) doJob(dir string, j job, files, round int) error {
	for i := range j.touch {
		if err := os.WriteFile(handFile(dir, j.file(i, files, round)), fmt.Appendf(nil, "round %d\n", round), 0o644); err != nil {
			return err
		}
	}
	if j.dirty == 0 {
		return nil
	}
	f, err := os.Create(filepath.Join(dir, "dirty"))
	if err != nil {
		return err
	}
	defer f.Close()
	block := bytes.Repeat([]byte{0xa5, 1, 2, 3}, 1<<18)
	for n := int64(0); n < int64(float64(j.dirty)*min(b.set.scale, 1)); n += int64(len(block)) {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// stillThere looks at what the last view must show.
func (b *bench) stillThere(dir string, files, rounds int, j job) error {
	if j.touch > 0 {
		got, err := os.ReadFile(handFile(dir, j.file(0, files, rounds-1)))
		if want := fmt.Sprintf("round %d\n", rounds-1); err != nil || string(got) != want {
			return fmt.Errorf("%q instead of %q: %w", got, want, err)
		}
	}
	for _, i := range []int{0, files / 2, files - 1} {
		if _, err := os.Lstat(handFile(dir, i)); err != nil {
			return err
		}
	}
	return nil
}

// otherSlot writes in a view of its own and syncs the file system, without pause.
func (b *bench) otherSlot(h *host) (stop func()) {
	id, target := h.prepare("")
	var done atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		block := bytes.Repeat([]byte{1, 2, 3, 4}, 1<<18)
		for !done.Load() {
			f, err := os.Create(filepath.Join(target, "other"))
			if err != nil {
				b.t.Error(err)
				return
			}
			for range 256 {
				if _, err := f.Write(block); err != nil {
					b.t.Error(err)
				}
			}
			_ = unix.Syncfs(int(f.Fd())) // its failing moves no figure
			f.Close()
		}
	})
	return func() { done.Store(true); wg.Wait(); h.discard(id) }
}

// copyOf is what people do instead: copy the tree for the next job. A clone is made
// of the copy, since a view is not of the file system below it.
func (b *bench) copyOf(h *host, d *disk, k key, id snapshot.ID) {
	view, target := h.prepare(id)
	defer h.discard(view)
	copies := []struct{ flag, from, to string }{{"never", target, filepath.Join(d.dir, "copy")}}
	if k.FS == "xfs" {
		copies = append(copies, struct{ flag, from, to string }{"always", copies[0].to, filepath.Join(d.dir, "clone")})
	}
	for _, c := range copies {
		k.Way = "cp -a --reflink=" + c.flag
		s, err := measured(b.t.Context(), d, `cp -a --reflink="$F" "$SRC" "$DST"`, []string{"F=" + c.flag, "SRC=" + c.from, "DST=" + c.to})
		if err != nil {
			b.rec.failed(k.of(opCopy), err)
			return
		}
		b.rec.add(k.of(opCopy), s)
	}
}

// handTable is the jobs, with quantiles.
func (b *bench) handTable(w *bytes.Buffer) {
	if !b.rec.any("hand") {
		return
	}
	fmt.Fprint(w, "#### Same-host hand-over: seal the job's view, mount the next job's on it\n\n")
	fmt.Fprintf(w, "Milliseconds, through the store's API, in one process; the tree has %d files and %.1f GB.\n\n",
		int(handFiles*min(b.set.scale, 1)), float64(handFiles*handSmall+handBig*handLarge)*min(b.set.scale, 1)/1e9)
	fmt.Fprint(w, "| fs | the job before | n | p50 | p99 | seal p50 | attach p50 | CPU p50 |\n|---|---|--:|--:|--:|--:|--:|--:|\n")
	for _, s := range b.rec.all {
		if s.Group != "hand" || (s.Op != opHand && s.Op != opCopy && s.Op != opImage) || len(s.Samples) == 0 {
			continue
		}
		name := s.Way
		if s.Op != opHand {
			name = s.Way + ": " + s.Op
		}
		part := func(op string) string {
			if s.Op != opHand {
				return "–"
			}
			return fmt.Sprintf("%.2f", median(walls(b.rec.of(s.of(op)))))
		}
		l := walls(s.Samples)
		fmt.Fprintf(w, "| %s | %s | %d | %.1f | %.1f | %s | %s | %.2f |\n", s.FS, name, len(l), quantile(l, 0.5), quantile(l, 0.99),
			part(opSeal), part(opAttach), median(cpus(s.Samples)))
	}
	fmt.Fprintln(w)
}
