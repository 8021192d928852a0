//go:build linux

package viewtest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
	"github.com/roost-ci/roost/snapshot/view"
)

// Open opens a driver for the store at root. It is called again with the same
// root when the suite plays a crash. Owners must be recorded if the process is
// root.
type Open func(t testing.TB, root string) view.Driver

// house is one host with one driver. It checks after every step that what the
// driver says is what a job sees.
type house struct {
	t    testing.TB
	open Open
	dir  string // for everything
	root string
	d    view.Driver
	far  *house // gets every layer by Unpack
	n    int
	jobs int
	// keepTimes leaves times as the job made them, so that results can't be compared.
	keepTimes bool
	images    bool // as in Suite
}

// snap is one sealed snapshot.
type snap struct {
	id    snapshot.ID
	layer *view.Layer
	tree  *snapshot.Manifest
	base  *snap // what its layer stands on
	delta []snapshot.Change
	far   *view.Layer        // the same, unpacked elsewhere
	there *snapshot.Manifest // tree, with the sources that it has there
}

func newHouse(t testing.TB, s Suite) *house {
	dir := s.temp(t)
	h := &house{t: t, open: s.Open, dir: dir, root: filepath.Join(dir, "s"), images: s.Images}
	h.d = s.Open(t, h.root)
	h.far = &house{t: t, open: s.Open, dir: dir, root: filepath.Join(dir, "far")}
	h.far.d = s.Open(t, h.far.root)
	t.Cleanup(func() {
		for _, x := range []*house{h, h.far} {
			_, err := x.d.Reconcile(context.Background(), nil, nil)
			require.NoError(t, err)
			left, err := os.ReadDir(filepath.Join(x.root, "views"))
			require.NoError(t, err)
			require.Empty(t, left, "left in the store")
		}
		require.Empty(t, mountsBelow(t, dir), "mounts left")
	})
	return h
}

func (h *house) ctx() context.Context { return h.t.Context() }

// views lists what is mounted, but for what a driver keeps below its root to make
// views of.
func (h *house) views() []string {
	h.t.Helper()
	return slices.DeleteFunc(mountsBelow(h.t, h.dir), func(p string) bool {
		return filepath.Base(filepath.Dir(p)) == "mnt"
	})
}

// image makes the image of a layer whose tree is m, if the driver can.
func (h *house) image(l, base *view.Layer, m *snapshot.Manifest) (*view.Layer, error) {
	im, ok := h.d.(view.Imager)
	if !ok {
		return l, nil
	}
	return im.Image(h.ctx(), l, base, m)
}

// unpack does all that a store does with a layer from elsewhere.
func (h *house) unpack(id snapshot.ID, base *view.Layer, from *snapshot.Manifest, changes []snapshot.Change,
	fill func(context.Context, view.WriteFunc) error,
) (*view.Layer, *snapshot.Manifest, error) {
	l, err := h.d.Unpack(h.ctx(), id, base, changes, fill, nil)
	if err != nil {
		return nil, nil, err
	}
	h.d.Locate(l, changes)
	m, err := tree.Apply(from, changes)
	if err == nil {
		var shown *view.Layer
		if shown, err = h.image(l, base, m); err == nil {
			return shown, m, nil
		}
	}
	return nil, nil, errors.Join(err, h.d.Remove(h.ctx(), l))
}

// id returns a new id. They are the same in every run of a scenario.
func (h *house) id() snapshot.ID {
	h.n++
	s := fmt.Sprintf("%d", h.n)
	return snapshot.ID(strings.Repeat("0", 26-len(s)) + s)
}

func (h *house) target(id snapshot.ID) string {
	return filepath.Join(h.dir, "slots", string(id[20:]))
}

func layerOf(s *snap) *view.Layer {
	if s == nil {
		return nil
	}
	return s.layer
}

func treeOf(s *snap) *snapshot.Manifest {
	if s == nil {
		return nil
	}
	return s.tree
}

// prepare makes a view of base, with changes merged into it, and checks that it
// shows exactly that.
func (h *house) prepare(base *snap, changes []snapshot.Change) (*view.View, *snapshot.Manifest, *view.Meter) {
	h.t.Helper()
	id, m := h.id(), &view.Meter{}
	spec := view.Spec{ID: id, Base: layerOf(base), Target: h.target(id), Meter: m}
	want := treeOf(base)
	if changes != nil {
		spec.Fanin = &view.Fanin{Changes: view.ChangesOf(changes)}
		merged, err := tree.Apply(want, changes)
		require.NoError(h.t, err)
		want = merged
		if h.images {
			spec.Fanin.Tree, spec.Fanin.Entries = view.TreeOf(merged), len(merged.Entries)
		}
	}
	v, err := h.d.Prepare(h.ctx(), spec)
	require.NoError(h.t, err)
	if want != nil && readable(v.Target) {
		h.same(want, h.scan(v.Target), "the view shows another tree than its layers")
	}
	return v, want, m
}

// job runs f in a view of base and seals it.
func (h *house) job(base *snap, f func(dir string)) *snap {
	h.t.Helper()
	v, from, _ := h.prepare(base, nil)
	f(v.Target)
	return h.seal(v, base, from)
}

// merge runs f on the merged tree of parents, the first of which is stood on.
func (h *house) merge(common *snap, f func(dir string), parents ...*snap) *snap {
	h.t.Helper()
	changes := h.union(common, parents...)
	v, from, _ := h.prepare(parents[0], changes)
	f(v.Target)
	return h.seal(v, parents[0], from)
}

// union is a merge of parents that do not conflict: what the others changed
// against common is done to the first. A directory's own look is the first's.
func (h *house) union(common *snap, parents ...*snap) []snapshot.Change {
	all := parents[0].tree
	for _, p := range parents[1:] {
		var add []snapshot.Change
		for _, c := range tree.Diff(treeOf(common), p.tree) {
			if e, ok := parents[0].tree.Find(c.Entry.Path); ok && !c.Delete && c.Entry.Type == snapshot.TypeDir && e.Type == snapshot.TypeDir {
				continue
			}
			add = append(add, c)
		}
		var err error
		all, err = tree.Apply(all, add)
		require.NoError(h.t, err)
	}
	return tree.Diff(parents[0].tree, all)
}

// seal ends a view and checks everything that can be known of the result.
func (h *house) seal(v *view.View, base *snap, from *snapshot.Manifest) *snap {
	h.t.Helper()
	h.jobs++
	if !h.keepTimes {
		settle(h.t, v.Target, h.jobs)
	}
	require.NoError(h.t, h.d.Seal(h.ctx(), v))
	require.NoError(h.t, h.d.Seal(h.ctx(), v), "Seal is idempotent")
	require.Empty(h.t, mountsBelow(h.t, v.Target))
	changes, err := h.d.Changes(h.ctx(), &v.Layer, from)
	require.NoError(h.t, err)
	got, err := tree.Apply(from, changes)
	require.NoError(h.t, err)
	require.NoError(h.t, tree.Validate(got))
	s := &snap{id: v.ID, layer: &v.Layer, tree: got, base: base}
	s.delta = tree.Diff(treeOf(base), got)
	h.hash(got)
	h.mounted(h.d, s.layer, got)
	if h.images {
		s.layer, err = h.image(s.layer, layerOf(base), got)
		require.NoError(h.t, err)
		h.mounted(h.d, s.layer, got)
	}
	h.send(s)
	return s
}

// mounted checks that a layer, mounted for reading, shows exactly want.
func (h *house) mounted(d view.Driver, l *view.Layer, want *snapshot.Manifest) {
	h.t.Helper()
	at := filepath.Join(h.dir, "look")
	c, err := d.Mount(h.ctx(), l, at)
	require.NoError(h.t, err)
	if readable(at) {
		h.same(want, h.scan(at), "the mounted layer shows another tree than Changes says")
	}
	require.NoError(h.t, c.Close())
}

// readable reports whether this process can read all of a tree. Root always can.
func readable(dir string) bool {
	return filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		return f.Close()
	}) == nil
}

// send unpacks s in the other house and checks the result.
func (h *house) send(s *snap) {
	h.t.Helper()
	var base *view.Layer
	var from *snapshot.Manifest
	if s.base != nil {
		base, from = s.base.far, s.base.there
	}
	changes := slices.Clone(s.delta)
	l, m, err := h.far.unpack(s.id, base, from, changes, func(_ context.Context, write view.WriteFunc) error {
		done := map[string]bool{}
		for i := range changes {
			e := &changes[i].Entry
			if changes[i].Delete || e.Type != snapshot.TypeFile || (e.Link != "" && done[e.Link]) {
				continue
			}
			done[e.Link] = true
			if err := feed(e, func(off int64, p []byte) error { return write(i, off, p) }); err != nil {
				return err
			}
		}
		return nil
	})
	require.NoError(h.t, err)
	s.far, s.there = l, m
	h.mounted(h.far.d, l, s.tree)
	if _, ok := h.far.d.(view.Imager); ok {
		return // it stored content, and no files that could tell
	}
	// A layer says of itself what it is, whoever made it.
	again, err := h.far.d.Changes(h.ctx(), l, treeOf(s.base))
	require.NoError(h.t, err)
	got, err := tree.Apply(treeOf(s.base), again)
	require.NoError(h.t, err)
	h.hash(got)
	h.same(s.tree, got, "an unpacked layer differs from what was sent")
}

// arrive prepares a view on what was unpacked in the other house.
func (h *house) arrive(s *snap) {
	h.t.Helper()
	id := h.id()
	v, err := h.far.d.Prepare(h.ctx(), view.Spec{ID: id, Base: s.far, Target: h.target(id)})
	require.NoError(h.t, err)
	if readable(v.Target) {
		h.same(s.tree, h.scan(v.Target), "a view of an unpacked layer shows another tree")
	}
	require.NoError(h.t, h.far.d.Discard(h.ctx(), v))
}

// feed hands out the bytes of e that are no hole, in odd pieces.
func feed(e *snapshot.Entry, write func(off int64, p []byte) error) error {
	f, err := os.Open(e.Source)
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	buf := make([]byte, 1<<20-7)
	for off := int64(0); off < e.Size; {
		n, err := f.ReadAt(buf, off)
		if err != nil && err != io.EOF {
			return err
		}
		if p := buf[:n]; strings.Trim(string(p), "\x00") != "" {
			if err := write(off, p); err != nil {
				return err
			}
		}
		off += int64(n)
	}
	return nil
}

// scan reads the tree at dir, contents included.
func (h *house) scan(dir string) *snapshot.Manifest {
	h.t.Helper()
	m, err := tree.Scan(h.ctx(), dir, tree.ScanOptions{Owners: os.Geteuid() == 0})
	require.NoError(h.t, err)
	h.hash(m)
	return m
}

// hash fills in the chunks of every file of m. Holes are read as what they show.
func (h *house) hash(m *snapshot.Manifest) {
	h.t.Helper()
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Hashed() {
			continue
		}
		require.NotEmpty(h.t, e.Source, "no source for %q", e.Path)
		e.Chunks = chunks(h.t, e)
	}
}

func chunks(t testing.TB, e *snapshot.Entry) []snapshot.Chunk {
	t.Helper()
	f, err := os.Open(e.Source)
	require.NoError(t, err)
	defer f.Close() //nolint:errcheck // only read from
	var out []snapshot.Chunk
	buf := make([]byte, min(e.Size, snapshot.MaxChunkBytes))
	for off := int64(0); off < e.Size; off += int64(len(buf)) {
		p := buf[:min(int64(len(buf)), e.Size-off)]
		_, err := f.ReadAt(p, off)
		require.NoError(t, err, "%q at %s", e.Path, e.Source)
		out = append(out, snapshot.Chunk{Off: off, Len: int64(len(p)), ID: sha256.Sum256(p)})
	}
	_, err = f.ReadAt(make([]byte, 1), e.Size)
	require.ErrorIs(t, err, io.EOF, "%q is longer than %d bytes", e.Path, e.Size)
	return out
}

func (h *house) same(want, got *snapshot.Manifest, why string) {
	h.t.Helper()
	h.hash(want)
	equal(h.t, lines(want), lines(got), why)
}

// equal compares two manifests and prints only where they differ.
func equal(t testing.TB, want, got []string, why string) {
	t.Helper()
	if slices.Equal(want, got) {
		return
	}
	var out []string
	for _, l := range want {
		if !slices.Contains(got, l) {
			out = append(out, "want "+l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			out = append(out, "got  "+l)
		}
	}
	if len(out) == 0 {
		out = append(out, "another order")
	}
	t.Fatalf("%s:\n%s", why, strings.Join(out[:min(len(out), 40)], "\n"))
}

// lines writes a manifest for people to compare.
func lines(m *snapshot.Manifest) []string {
	out := make([]string, len(m.Entries))
	for i, e := range m.Entries {
		out[i] = fmt.Sprintf("%q %s %04o %d:%d mtime=%d size=%d target=%q link=%q xattrs=%q chunks=%.12v",
			e.Path, e.Type, e.Mode, e.UID, e.GID, e.MTime, e.Size, e.Target, e.Link, e.Xattrs, e.Chunks)
	}
	return out
}

// settle gives whatever the job just touched a time that depends on nothing but
// the job's number, so that two runs can be compared.
func settle(t testing.TB, dir string, job int) {
	t.Helper()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	then := time.Unix(1_500_000_000+int64(job), 123_456_789)
	var all []string
	require.NoError(t, filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if e == nil {
			return err
		}
		all = append(all, p)
		if os.IsPermission(err) { // the job locked itself out: its directory is as it is
			return filepath.SkipDir
		}
		return err
	}))
	slices.Reverse(all)
	for _, p := range all {
		fi, err := os.Lstat(p)
		require.NoError(t, err)
		if fi.ModTime().After(now) {
			require.NoError(t, setTime(p, then))
		}
	}
}
