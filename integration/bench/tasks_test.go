//go:build bench && linux

package bench

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
)

// task is something that a pipeline needs done.
type task struct {
	title string
	ways  []way
}

// way is one means of doing a task. It prepares, measures, and checks what came
// out; only the middle part counts.
type way struct {
	name string
	run  func(l *lab) sample
}

// tasks in the order in which a round does them: each finds what the one before it
// left. The first way of each is ours.
func tasks(t *testing.T) []task {
	list := []task{
		{"1. Hand a tree to the next job on the same host", []way{
			{"Roost: prepare", prepareOnly},
			{"Roost: seal the whole tree as new, prepare", sealAndPrepare},
		}},
		{"2. Keep what a small job changed, on the same host", []way{{"Roost: seal", sealSmall}}},
		{"3a. Make what travels: the whole tree", []way{{"Roost: seal, pack", packWhole}}},
		{"3b. Make what travels: a small change", []way{{"Roost: seal, pack", packSmall}}},
		{"4a. Fetch on another host: the whole tree", []way{{"Roost: import", fetchWhole}}},
		{"4b. Fetch on another host: a small change to what it has", []way{{"Roost: import", fetchSmall}}},
	}
	for _, c := range copiers {
		if usable(t, c.name, c.needs) {
			list[0].ways = append(list[0].ways, way{c.name, c.handOver})
			list[1].ways = append(list[1].ways, way{c.name, c.keep})
		}
	}
	for _, a := range archivers {
		if usable(t, a.name, a.needs...) {
			list[0].ways = append(list[0].ways, way{a.name + ": save, restore", a.handOver})
			list[1].ways = append(list[1].ways, way{a.name + ": save", a.keep})
			list[2].ways = append(list[2].ways, way{a.name, a.makeWhole})
			list[3].ways = append(list[3].ways, way{a.name + ", all of it", a.makeAgain})
			list[4].ways = append(list[4].ways, way{a.name + ": download, unpack", a.fetchWhole})
			list[5].ways = append(list[5].ways, way{a.name + ": all of it", a.fetchAgain})
		}
	}
	return list
}

func (l *lab) profiled(name string, fn func()) sample {
	return l.set.profiled(l.t, fmt.Sprintf("%s-%s-%d", name, l.shape, l.round), fn)
}

func (l *lab) timed(fn func()) sample { return timed(l.t, l.dir, fn) }

// Same host, whole tree.

func prepareOnly(l *lab) (s sample) {
	var id snapshot.ID
	var target string
	s = l.timed(func() { id, target = l.host.prepare(l.base) })
	s.read = same(l.t, l.exact, target, exact)
	l.host.discard(id)
	return s
}

func sealAndPrepare(l *lab) (s sample) {
	id, target := l.host.prepare("")
	l.fill(target)
	var next snapshot.ID
	s = l.profiled("seal-prepare", func() {
		l.host.seal(id)
		next, target = l.host.prepare(id)
	})
	s.read = same(l.t, l.exact, target, exact)
	l.host.discard(next)
	require.NoError(l.t, l.host.s.Drop(l.t.Context(), id))
	return s
}

func (c copier) handOver(l *lab) (s sample) {
	to := l.fresh("job")
	s = l.timed(func() { shell(l.t, c.copies, l.src, to) })
	s.sync = syncAll(l.t, l.dir)
	s.read = same(l.t, l.exact, to, exact)
	l.away(to)
	return s
}

func (a archiver) handOver(l *lab) (s sample) {
	file, to := l.fresh("archive")+a.ext, mkdir(l.t, l.fresh("job"))
	s = l.timed(func() {
		a.save(l.t, l.src, file)
		a.restore(l.t, file, to)
	})
	s.sync, s.bytes = syncAll(l.t, l.dir), sizeOf(l.t, file)
	s.read = same(l.t, l.seconds, to, seconds)
	l.away(to)
	l.away(file)
	return s
}

// Same host, small change.

func sealSmall(l *lab) (s sample) {
	id, target := l.host.prepare(l.last)
	changeSome(l.t, target, l.exact.files, l.round)
	s = l.timed(func() { l.host.seal(id) })
	next, target := l.host.prepare(id)
	s.read = same(l.t, l.workIs[exact], target, exact)
	l.host.discard(next)
	require.NoError(l.t, l.host.s.Drop(l.t.Context(), id))
	return s
}

func (c copier) keep(l *lab) (s sample) {
	save := l.saved[c.name]
	if save == "" {
		save = l.fresh("save")
		shell(l.t, `cp -a "$1" "$2"`, l.src, save)
	}
	to := save
	if c.elsewhere {
		to = l.fresh("save")
	}
	s = l.timed(func() { shell(l.t, c.updates, l.work, save, to) })
	s.sync = syncAll(l.t, l.dir)
	s.read = same(l.t, l.workIs[exact], to, exact)
	if to != save {
		l.away(save)
	}
	l.saved[c.name] = to
	return s
}

func (a archiver) keep(l *lab) (s sample) {
	file := l.fresh("archive") + a.ext
	s = l.timed(func() { a.save(l.t, l.work, file) })
	s.sync, s.bytes = syncAll(l.t, l.dir), sizeOf(l.t, file)
	to := mkdir(l.t, l.fresh("job"))
	a.restore(l.t, file, to)
	s.read = same(l.t, l.workIs[seconds], to, seconds)
	l.away(to)
	l.away(file)
	return s
}

// What travels.

func packWhole(l *lab) (s sample) {
	id, target := l.host.prepare("")
	l.fill(target)
	var in store.Info
	s = l.profiled("pack", func() {
		l.host.seal(id)
		in = l.host.pack(id)
	})
	base, err := l.host.s.Lookup(l.base)
	require.NoError(l.t, err)
	require.Equal(l.t, base.Manifest, in.Manifest, "the same tree has another digest")
	require.NoError(l.t, l.host.s.Verify(l.t.Context(), id))
	s.bytes = in.StoredBytes
	require.NoError(l.t, l.host.s.Drop(l.t.Context(), id))
	return s
}

func packSmall(l *lab) (s sample) {
	id, target := l.host.prepare(l.last)
	changeSome(l.t, target, l.exact.files, l.round)
	s = l.profiled("pack-small", func() {
		l.host.seal(id)
		l.next = l.host.pack(id)
	})
	s.bytes = l.next.StoredBytes
	l.publish()
	return s
}

func (a archiver) makeWhole(l *lab) (s sample) {
	file := l.fresh("archive") + a.ext
	s = l.timed(func() { a.save(l.t, l.src, file) })
	s.sync, s.bytes = syncFile(l.t, file), sizeOf(l.t, file)
	to := mkdir(l.t, l.fresh("job"))
	a.restore(l.t, file, to)
	same(l.t, l.seconds, to, seconds)
	l.away(to)
	l.away(file)
	return s
}

// makeAgain leaves the archive for fetchAgain, which checks it.
func (a archiver) makeAgain(l *lab) (s sample) {
	file := filepath.Join(l.archives, "work"+a.ext)
	l.away(file)
	s = l.timed(func() { a.save(l.t, l.work, file) })
	s.sync, s.bytes = syncFile(l.t, file), sizeOf(l.t, file)
	return s
}

// Another host.

func fetchWhole(l *lab) (s sample) {
	dir := l.fresh("third")
	h := newHost(l.t, dir)
	in, err := l.host.s.Lookup(l.base)
	require.NoError(l.t, err)
	var moved int64
	s = l.profiled("import", func() { moved = h.fetch(in, l.blobs) })
	s.bytes = moved
	_, target := h.prepare(l.base)
	s.read = same(l.t, l.exact, target, exact)
	h.close()
	l.away(dir)
	return s
}

func fetchSmall(l *lab) (s sample) {
	if l.round == 0 {
		base, err := l.host.s.Lookup(l.base)
		require.NoError(l.t, err)
		l.other.fetch(base, l.blobs)
	}
	var moved int64
	s = l.profiled("import-small", func() { moved = l.other.fetch(l.next, l.blobs) })
	s.bytes = moved
	id, target := l.other.prepare(l.next.ID)
	s.read = same(l.t, l.workIs[exact], target, exact)
	l.other.discard(id)
	return s
}

func (a archiver) fetchWhole(l *lab) sample { return a.fetch(l, "src", l.seconds) }
func (a archiver) fetchAgain(l *lab) sample { return a.fetch(l, "work", l.workIs[seconds]) }

// fetch downloads to a file and unpacks that, as GitLab's and GitHub's runners do.
func (a archiver) fetch(l *lab, name string, want look) (s sample) {
	file, to := l.fresh("download"), mkdir(l.t, l.fresh("job"))
	s = l.timed(func() {
		download(l.t, l.files+"/"+name+a.ext, file)
		a.restore(l.t, file, to)
	})
	s.sync, s.bytes = syncAll(l.t, l.dir), sizeOf(l.t, file)
	s.read = same(l.t, want, to, seconds)
	l.away(to)
	l.away(file)
	return s
}

func download(t *testing.T, url, file string) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Minute}
	r, err := client.Get(url)
	require.NoError(t, err)
	defer r.Body.Close()
	require.Equal(t, http.StatusOK, r.StatusCode)
	f, err := os.Create(file)
	require.NoError(t, err)
	_, err = io.Copy(f, r.Body)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}
