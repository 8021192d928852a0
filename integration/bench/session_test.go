//go:build bench && linux

package bench

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/roost-ci/roost/integration/treecheck"
)

// What a session measures, in the order in which it does.
const (
	opSave    = "save"      // all of it, for the first time; the tree was just written
	opSame    = "unchanged" // again, nothing changed
	opChange  = "change"    // again, after the change
	opBack    = "restore"   // to an empty directory, nothing in the caches
	opMount   = "mount"     // to a mounted view that can be used, nothing in the caches
	opRead    = "read"      // walk and read all of that view
	opReadDir = "read-back" // walk and read all of what was restored, as warm as it is then
)

// session is one way with one tree on a fresh file system. What goes wrong is
// recorded, and ends the session: a way that fails has no figure.
func (b *bench) session(tr *tree, fs string, w way) {
	d := newDisk(b.t, b.set, fs, tr.gib)
	defer d.remove()
	src, repo := filepath.Join(d.dir, "src"), filepath.Join(d.dir, "repo")
	at := func(n int, dst string) []string {
		return []string{
			"SRC=" + src, "REPO=" + repo, fmt.Sprintf("N=%d", n), "DST=" + dst,
			fmt.Sprintf("CORES=%d", runtime.NumCPU()), "ROOST=" + b.roost,
		}
	}
	must(b.t, `mkdir "$REPO"; cp -a "$V0" "$SRC"`, append(at(0, ""), "V0="+tr.v0)...)
	s := &steps{b: b, tr: tr, d: d, w: w, repo: repo, key: key{Group: "session", FS: fs, Tree: tr.name, Way: w.name}}
	again := w.save
	if w.again != "" {
		again = w.again
	}
	s.quiet("init", w.init, at(0, ""))
	s.save(opSave, w.save, at(0, ""))
	if !w.whole {
		s.save(opSame, again, at(0, ""))
	}
	tr.apply(b.t, src)
	s.save(opChange, again, at(1, ""))
	s.quiet("before", w.before, at(1, ""))

	dst := s.directory("back")
	d.cold()
	s.command(opBack, w.back, at(1, dst))
	s.readAll(opReadDir, dst)
	s.check(opBack, dst)
	if w.mount == "" {
		return
	}
	s.err = nil // what came before was another thing
	s.quiet("publish", w.ready, at(1, ""))
	dst = s.directory("view")
	d.cold()
	s.usable(opMount, w.mount, at(1, dst))
	s.readAll(opRead, dst)
	s.check(opMount, dst)
	s.quiet("umount", w.umount, at(1, dst))
}

// steps are what a session does, until one of them fails.
type steps struct {
	b    *bench
	tr   *tree
	d    *disk
	w    way
	key  key
	repo string
	err  error
}

func (s *steps) failed(op string, err error) {
	s.err = err
	s.b.rec.failed(s.key.of(op), err)
	logf("FAILED %s: %v", s.key.of(op), err)
}

func (s *steps) quiet(op, script string, env []string) {
	if s.err != nil || script == "" {
		return
	}
	if _, err := sh(s.b.t.Context(), script, env); err != nil {
		s.failed(op, err)
	}
}

func (s *steps) command(op, script string, env []string) {
	if s.err != nil {
		return
	}
	m, err := measured(s.b.t.Context(), s.d, script, env)
	if err != nil {
		s.failed(op, err)
		return
	}
	s.b.rec.add(s.key.of(op), m)
}

// usable is command, until what it makes can be used: what is brought to the disk
// after that is told beside it, and is nobody's time.
func (s *steps) usable(op, script string, env []string) {
	if s.err != nil {
		return
	}
	m, err := measured(s.b.t.Context(), s.d, script, env)
	if err != nil {
		s.failed(op, err)
		return
	}
	m.Wall -= m.Sync
	s.b.rec.add(s.key.of(op), m)
}

// save also counts what is stored.
func (s *steps) save(op, script string, env []string) {
	if s.err != nil {
		return
	}
	before := stored(s.repo)
	m, err := measured(s.b.t.Context(), s.d, script, env)
	if err != nil {
		s.failed(op, err)
		return
	}
	if !s.w.copies {
		m.Bytes = stored(s.repo) - before
	}
	s.b.rec.add(s.key.of(op), m)
}

func (s *steps) directory(name string) string {
	dir := filepath.Join(s.d.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.failed(name, err)
	}
	return dir
}

// readAll walks a tree and reads every file in it, on all cores.
func (s *steps) readAll(op, dir string) {
	if s.err != nil {
		return
	}
	m := timed(func() {
		if err := readTree(dir); err != nil {
			s.failed(op, err)
		}
	})
	if s.err == nil {
		s.b.rec.add(s.key.of(op), m)
	}
}

// check compares with what was saved. The roots are left out: most ways keep what
// is in a directory, not the directory.
func (s *steps) check(op, dir string) {
	if s.err != nil {
		return
	}
	got, err := treecheck.Options{Seconds: s.w.seconds}.Read(dir)
	if err != nil {
		s.failed(op, err)
		return
	}
	var bad []string
	for _, l := range (treecheck.Options{}).Differences(s.tr.saw[s.w.seconds], got) {
		if !strings.HasPrefix(l, `".": `) && (!s.w.links || !isLinkTime(dir, l)) {
			bad = append(bad, l)
		}
	}
	if len(bad) > 0 {
		s.failed(op, fmt.Errorf("not the tree that went in: %d differences, such as %s", len(bad), strings.Join(bad[:min(3, len(bad))], "; ")))
	}
}

// isLinkTime says whether a difference is the time of a symlink.
func isLinkTime(dir, difference string) bool {
	quoted, rest, ok := strings.Cut(difference, ": ")
	name, err := strconv.Unquote(quoted)
	if !ok || err != nil || !strings.HasPrefix(rest, "mtime ") {
		return false
	}
	st, err := os.Lstat(filepath.Join(dir, name))
	return err == nil && st.Mode()&os.ModeSymlink != 0
}

// notStored is what lies beside what is kept: caches, and the file that Roost gives
// up on a full disk.
var notStored = []string{"/cache/", "/base/", "/store/reserve"}

// stored is the size of all files below dir, as they would be sent or kept.
func stored(dir string) (bytes int64) {
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error { // what vanishes meanwhile is not stored
		for _, n := range notStored {
			if strings.HasPrefix(path, dir+n) {
				return nil
			}
		}
		if err == nil && e.Type().IsRegular() {
			if st, err := e.Info(); err == nil {
				bytes += st.Size()
			}
		}
		return nil
	})
	return bytes
}

// readTree is what a job does that looks at everything.
func readTree(dir string) error {
	files := make(chan string, 1024)
	errs := make(chan error, runtime.NumCPU()+1)
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			var first error
			for path := range files {
				f, err := os.Open(path)
				if err == nil {
					_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf)
					f.Close()
				}
				if err != nil && first == nil {
					first = err
				}
			}
			errs <- first
		})
	}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if _, err := e.Info(); err != nil {
			return err
		}
		if e.Type().IsRegular() {
			files <- path
		}
		return nil
	})
	close(files)
	wg.Wait()
	for range runtime.NumCPU() {
		if e := <-errs; err == nil {
			err = e
		}
	}
	return err
}

// sessions lets all ways have all trees, in turns: which one comes first goes
// round, so that none always runs after the same other one. Everything is done once
// before anything is done twice, slow ways last. When the time that is set is over,
// only the first file system is still done, once.
func (b *bench) sessions(list []way) {
	for round := range b.set.rounds {
		for i, fs := range b.set.fs {
			for _, tr := range b.trees {
				b.turn(tr, fs, list, round, false, round == 0 && i == 0)
			}
		}
		for _, tr := range b.trees {
			if round == 0 {
				b.turn(tr, b.set.fs[0], list, round, true, false)
			}
		}
	}
}

// turn has each way that can, of the slow or of the others, keep a tree once.
func (b *bench) turn(tr *tree, fs string, list []way, round int, slow, sure bool) {
	start := time.Now()
	if !sure && start.Sub(b.start) > b.set.time {
		logf("%s on %s: not done again, %.0f min are over", tr.name, fs, b.set.time.Minutes())
		return
	}
	for i := range list {
		if w := list[(i+round)%len(list)]; w.slow == slow && (w.fs == "" || w.fs == fs) {
			b.session(tr, fs, w)
		}
	}
	logf("%s on %s: round %d of %d in %.0f s", tr.name, fs, round+1, b.set.rounds, time.Since(start).Seconds())
	b.report()
}
