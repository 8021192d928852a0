//go:build bench && linux

package bench

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/transfer/blob"
)

// lab is one tree with all that the ways of doing things with it stand on.
type lab struct {
	t     *testing.T
	set   settings
	shape string
	dir   string
	round int
	names int

	src      string // the tree
	exact    look
	seconds  look
	work     string // the tree as the jobs of the rounds so far have changed it
	workIs   map[fidelity]look
	archives string // whole trees, as archivers save them, served to other hosts
	saved    map[string]string

	host *host       // where the jobs run
	base snapshot.ID // the tree
	last snapshot.ID // work as it was after the round before, packed
	next store.Info  // work as it is, packed

	other *host // another host, which has what host had a round ago
	blobs *blob.HTTP
	files string // address of archives
}

func newLab(t *testing.T, set settings, sh shape) *lab {
	t.Helper()
	l := &lab{
		t: t, set: set, shape: sh.name, dir: newDisk(t, set, sh.name), saved: map[string]string{},
		workIs: map[fidelity]look{},
	}
	mkdir(t, l.path("trash"))
	l.src, l.archives = mkdir(t, l.path("src")), mkdir(t, l.path("archives"))
	sh.make(t, l.src, set.scale)
	l.exact, l.seconds = lookAt(t, l.src, exact), lookAt(t, l.src, seconds)
	l.work = l.path("work")
	shell(t, `cp -a "$1" "$2"`, l.src, l.work)

	dir, err := blob.OpenDir(l.path("blobs"), blob.DirOptions{})
	require.NoError(t, err)
	t.Cleanup(func() { dir.Close() })
	l.blobs = blob.NewHTTP(l.serve(blob.Handler(dir, blob.HandlerOptions{})), nil, nil)
	t.Cleanup(l.blobs.CloseIdle)
	l.files = l.serve(http.FileServer(http.Dir(l.archives)))

	l.host, l.other = newHost(t, l.path("host")), newHost(t, l.path("other"))
	id, target := l.host.prepare("")
	l.fill(target)
	l.host.seal(id)
	l.next = l.host.pack(id)
	l.base = id
	l.publish()
	for _, a := range archivers {
		a.save(t, l.src, filepath.Join(l.archives, "src"+a.ext))
	}
	return l
}

func (l *lab) serve(h http.Handler) string {
	s := httptest.NewServer(h)
	l.t.Cleanup(s.Close)
	return s.URL
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// fresh is a path that nobody has used.
func (l *lab) fresh(name string) string {
	l.names++
	return l.path(fmt.Sprintf("%s-%d", name, l.names))
}

// away renames what is not needed any more. Deleting waits for the end: on ext4
// without a journal creating files soon after a deletion is ten times slower. Only
// large files give back their blocks, so that the disk does not fill.
func (l *lab) away(path string) {
	l.t.Helper()
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return
	}
	l.names++
	to := filepath.Join(l.path("trash"), fmt.Sprint(l.names))
	require.NoError(l.t, os.Rename(path, to))
	shell(l.t, `find "$1" -type f -links 1 -size +1024k -exec truncate -s 0 {} +`, to)
}

// fill makes a job's view hold the tree, as a job would that builds it.
func (l *lab) fill(target string) {
	l.t.Helper()
	shell(l.t, `cp -a "$1"/. "$2"/`, l.src, target)
}

// change is the job of this round: it changes a few files of work.
func (l *lab) change() {
	changeSome(l.t, l.work, l.exact.files, l.round)
	l.workIs[exact], l.workIs[seconds] = lookAt(l.t, l.work, exact), lookAt(l.t, l.work, seconds)
	l.last = l.next.ID
}

// publish makes what was packed last known to the other host's servers.
func (l *lab) publish() { l.host.upload(l.next.ID, l.blobs) }
