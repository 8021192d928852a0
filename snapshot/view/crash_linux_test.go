//go:build failpoints

package view_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
	"github.com/roost-ci/roost/snapshot/view/containers"
)

// points are all the steps of this package at which a process can be killed. A
// point that no run reaches fails the test, and so does one that is not listed.
var points = map[string][]string{
	view.NameOverlay: {
		"view.prepare.made", "view.base.mounted", "view.flattened", "view.fixup.made", "view.prepare.upper",
		"view.mount.detached", "view.mount.attached", "view.prepare.mounted", "view.seal.readonly", "view.seal.unmounted",
		"view.trashed", "view.unpack.made", "view.unpack.names", "view.unpack.filled", "view.synced",
	},
	view.NameErofs: {
		"view.prepare.made", "view.base.mounted", "view.fixup.made", "view.start.written", "view.prepare.upper",
		"view.mount.detached", "view.mount.attached", "view.prepare.mounted", "view.seal.readonly", "view.seal.unmounted",
		"view.trashed", "view.unpack.made", "view.unpack.names", "view.unpack.filled", "view.synced",
		"view.image.copied", "view.image.written", "view.image.mounted", "view.image.linked", "view.start.linked", "durable.moved",
		"view.gather.written", "view.gathered", "view.prune.marked", "view.pruned",
		"erofs.write.super", "erofs.mount.detached", "erofs.mount.attached", "durable.synced", "durable.renamed",
	},
	containers.Name: {
		"view.prepare.made", "view.base.mounted", "view.flattened", "view.fixup.made", "view.graph.created", "view.prepare.upper",
		"view.mount.detached", "view.mount.attached", "view.prepare.mounted", "view.seal.readonly", "view.seal.unmounted",
		"view.graph.removed", "view.trashed", "view.unpack.made", "view.unpack.names", "view.unpack.filled", "view.synced",
	},
	view.NameCopy: {
		"view.prepare.made", "view.prepare.upper", "view.prepare.mounted", "view.seal.readable", "view.seal.unmounted",
		"view.discard.tree", "view.trashed", "view.unpack.made", "view.unpack.names", "view.unpack.filled", "view.synced",
		"durable.moved", "durable.synced", "durable.renamed",
	},
}

// line is what the test's store writes down, one JSON object a line.
type line struct {
	Doing  *view.View  `json:",omitempty"` // a view is about to be prepared
	Sealed *view.Layer `json:",omitempty"`
	Gone   snapshot.ID `json:",omitempty"` // is about to be deleted
	Shows  string      `json:",omitempty"` // a file of the sealed layer
}

func openNamed(name, root string) (view.Driver, error) {
	d, err := view.Open(name, root, view.Options{Owners: true, MaxLowers: 4})
	if err == nil && name == view.NameErofs {
		view.AlwaysImage(d)
	}
	return d, err
}

// TestCrashChild is the process that is killed.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("ROOST_CRASH_DIR")
	if dir == "" {
		t.Skip("runs in TestCrash")
	}
	log, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(t, err)
	write := func(l line) {
		b, err := json.Marshal(l)
		require.NoError(t, err)
		_, err = log.Write(append(b, '\n'))
		require.NoError(t, err)
	}
	d, err := openNamed(os.Getenv("ROOST_CRASH_DRIVER"), filepath.Join(dir, "s"))
	require.NoError(t, err)
	n := 0
	image := func(l, base *view.Layer, m *snapshot.Manifest, shows string) *view.Layer {
		im, ok := d.(view.Imager)
		if !ok {
			return l
		}
		l, err := im.Image(t.Context(), l, base, m)
		require.NoError(t, err)
		write(line{Sealed: l, Shows: shows})
		return l
	}
	merged := "" // the last view's key
	job := func(base *view.Layer, from *snapshot.Manifest, f *view.Fanin, keep bool) (*view.Layer, *snapshot.Manifest) {
		n++
		id := snapshot.ID(fmt.Sprintf("%026d", n))
		target := filepath.Join(dir, "slots", fmt.Sprint(n))
		write(line{Doing: &view.View{ID: id, Target: target}})
		v, err := d.Prepare(t.Context(), view.Spec{ID: id, Base: base, Fanin: f, Target: target})
		require.NoError(t, err)
		write(line{Doing: v})
		merged = v.MergeKey()
		name := fmt.Sprintf("sub%d/file", n)
		require.NoError(t, os.Mkdir(filepath.Join(target, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(target, name), []byte(id), 0o644))
		if !keep {
			write(line{Gone: id})
			require.NoError(t, d.Discard(t.Context(), v))
			return nil, nil
		}
		require.NoError(t, d.Seal(t.Context(), v))
		write(line{Sealed: &v.Layer, Shows: name})
		if f != nil {
			ch, err := f.Changes.List()
			require.NoError(t, err)
			from = apply(t, from, ch)
		}
		ch, err := d.Changes(t.Context(), &v.Layer, from)
		require.NoError(t, err)
		m, err := tree.Apply(from, ch)
		require.NoError(t, err)
		return image(&v.Layer, base, m, name), m
	}
	a, am := job(nil, nil, nil, true)
	b, bm := job(a, am, nil, true)
	_, cm := job(a, am, nil, true)
	m, mm := job(b, bm, &view.Fanin{Changes: view.ChangesOf(tree.Diff(am, cm)[1:])}, true)
	job(m, mm, nil, false)
	m, mm = job(m, mm, nil, true) // grows too high and is flattened

	n++
	id := snapshot.ID(fmt.Sprintf("%026d", n))
	ch := []snapshot.Change{{Entry: snapshot.Entry{Path: "sub1/far", Type: snapshot.TypeFile, Mode: 0o644, Size: 3}}}
	l, err := d.Unpack(t.Context(), id, a, ch, func(_ context.Context, w view.WriteFunc) error { return w(0, 0, []byte("far")) }, nil)
	require.NoError(t, err)
	if _, ok := d.(view.Imager); ok {
		d.Locate(l, ch)
		far, err := tree.Apply(am, ch)
		require.NoError(t, err)
		l = image(l, a, far, "sub1/far")
		shown, shownTree := job(b, bm, &view.Fanin{Changes: view.ChangesOf(ch), Tree: view.TreeOf(apply(t, bm, ch))}, true)
		key := merged
		job(b, bm, &view.Fanin{Changes: view.ChangesOf(ch)}, true)
		// Both have an image already: the same merge, and the tree of shown.
		job(b, bm, &view.Fanin{Changes: view.ChangesOf(ch), Again: true, Key: key, Tree: func(func(*snapshot.Entry) error) error {
			return errors.New("there is an image")
		}}, true)
		image(shown, shown, shownTree, "sub1/far")
	} else {
		write(line{Sealed: l, Shows: "sub1/far"})
	}
	require.NoError(t, d.Sync(t.Context(), m))
	write(line{Gone: m.ID})
	require.NoError(t, d.Remove(t.Context(), m))
	if g, ok := d.(view.Gatherer); ok {
		x, xm := job(nil, nil, nil, true)
		shows := fmt.Sprintf("sub%d/file", n)
		p, to, err := g.Gather(t.Context(), x, view.TreeOf(xm))
		require.NoError(t, err)
		xm, err = to.Manifest(0)
		require.NoError(t, err)
		x = image(p, x, xm, shows)
		require.NoError(t, g.Prune(t.Context(), x, to))
	}
}

func apply(t *testing.T, m *snapshot.Manifest, ch []snapshot.Change) *snapshot.Manifest {
	t.Helper()
	out, err := tree.Apply(m, ch)
	require.NoError(t, err)
	return out
}

// TestAllPoints compares the list with the source.
func TestAllPoints(t *testing.T) {
	listed := map[string]bool{}
	for _, names := range points {
		for _, n := range names {
			listed[n] = true
		}
	}
	for p := range testenv.FailPoints(t, "*.go") {
		require.True(t, listed[p], "%s is not in the list", p)
	}
}

func TestCrash(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	for driver, names := range points {
		for _, p := range names {
			t.Run(driver+"/"+p, func(t *testing.T) {
				deaths := 0
				for k := 1; crash(t, driver, fmt.Sprintf("%s:%d", p, k)); k++ {
					deaths++
				}
				require.Positive(t, deaths, "%s was never reached", p)
			})
		}
	}
}

// crash runs the child to the point and reports whether it died there. What it
// left is cleaned as a store would, and checked.
func crash(t *testing.T, driver, point string) bool {
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCrashChild$")
	cmd.Env = append(os.Environ(), "ROOST_CRASH_DIR="+dir, "ROOST_CRASH_DRIVER="+driver, fail.Env+"="+point)
	out, err := cmd.CombinedOutput()
	died := false
	if err != nil {
		var ee *exec.ExitError
		require.ErrorAs(t, err, &ee)
		require.Equal(t, syscall.SIGKILL, ee.Sys().(syscall.WaitStatus).Signal(), "%s", out)
		died = true
	}
	recoverAndCheck(t, driver, dir)
	return died
}

func recoverAndCheck(t *testing.T, driver, dir string) {
	views, layers, shows := map[snapshot.ID]*view.View{}, map[snapshot.ID]*view.Layer{}, map[snapshot.ID]string{}
	b, err := os.ReadFile(filepath.Join(dir, "log"))
	if !errors.Is(err, os.ErrNotExist) {
		require.NoError(t, err)
	}
	for l := range strings.Lines(string(b)) {
		var x line
		require.NoError(t, json.Unmarshal([]byte(l), &x))
		switch {
		case x.Doing != nil:
			views[x.Doing.ID] = x.Doing
		case x.Sealed != nil:
			delete(views, x.Sealed.ID)
			layers[x.Sealed.ID], shows[x.Sealed.ID] = x.Sealed, x.Shows
		default:
			delete(views, x.Gone)
			delete(layers, x.Gone)
		}
	}
	ids := func(n int, each func(func(snapshot.ID))) []snapshot.ID {
		out := make([]snapshot.ID, 0, n)
		each(func(id snapshot.ID) { out = append(out, id) })
		return out
	}
	known := ids(len(layers), func(f func(snapshot.ID)) {
		for id := range layers {
			f(id)
		}
	})
	open := ids(len(views), func(f func(snapshot.ID)) {
		for id := range views {
			f(id)
		}
	})
	d, err := openNamed(driver, filepath.Join(dir, "s"))
	require.NoError(t, err)
	_, err = d.Reconcile(t.Context(), known, open)
	require.NoError(t, err)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)
	for _, v := range views {
		require.NoError(t, d.Discard(t.Context(), v))
	}
	left, err := os.ReadDir(filepath.Join(dir, "s", "views"))
	require.NoError(t, err)
	require.Len(t, left, len(layers))
	left, err = os.ReadDir(filepath.Join(dir, "s", "trash"))
	require.NoError(t, err)
	require.Empty(t, left)
	for id, l := range layers {
		at := filepath.Join(dir, "look")
		c, err := d.Mount(t.Context(), l, at)
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(at, shows[id]))
		require.NoError(t, err)
		require.Contains(t, []string{string(id), "far"}, string(b))
		require.NoError(t, c.Close())
	}
	if c, ok := d.(io.Closer); ok {
		require.NoError(t, c.Close())
	}
	if slots, err := os.ReadDir(filepath.Join(dir, "slots")); err == nil {
		for _, s := range slots {
			in, err := os.ReadDir(filepath.Join(dir, "slots", s.Name()))
			require.NoError(t, err)
			require.Empty(t, in, "left at %s", s.Name())
		}
	}
}
