package view

import (
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// host is an overlay driver on a store of its own.
type host struct {
	t    testing.TB
	d    *Overlay
	root string
	slot string
}

func newHost(t testing.TB, o Options) *host {
	testenv.Require(t, testenv.Overlay)
	dir := t.TempDir()
	o.Owners = true
	d, err := NewOverlay(filepath.Join(dir, "s"), o)
	require.NoError(t, err)
	h := &host{t: t, d: d.(*Overlay), root: filepath.Join(dir, "s"), slot: filepath.Join(dir, "slots")}
	t.Cleanup(func() {
		_, err := d.Reconcile(context.Background(), nil, nil)
		require.NoError(t, err)
		m, err := mountsAt(dir)
		require.NoError(t, err)
		require.Empty(t, m, "mounts left")
	})
	return h
}

func newID(t testing.TB) snapshot.ID {
	id, err := snapshot.NewID(rand.Reader)
	require.NoError(t, err)
	return id
}

func (h *host) prepare(base *Layer, f *Fanin) *View {
	h.t.Helper()
	id := newID(h.t)
	v, err := h.d.Prepare(h.t.Context(), Spec{ID: id, Base: base, Fanin: f, Target: filepath.Join(h.slot, string(id))})
	require.NoError(h.t, err)
	return v
}

// job returns the sealed layer and its tree.
func (h *host) job(base *Layer, from *snapshot.Manifest, f func(dir string)) (*Layer, *snapshot.Manifest) {
	h.t.Helper()
	v := h.prepare(base, nil)
	f(v.Target)
	require.NoError(h.t, h.d.Seal(h.t.Context(), v))
	return &v.Layer, h.tree(&v.Layer, from)
}

func (h *host) tree(l *Layer, from *snapshot.Manifest) *snapshot.Manifest {
	h.t.Helper()
	ch, err := h.d.Changes(h.t.Context(), l, from)
	require.NoError(h.t, err)
	m, err := tree.Apply(from, ch)
	require.NoError(h.t, err)
	return m
}

func (h *host) put(dir, name, text string) {
	h.t.Helper()
	require.NoError(h.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
	require.NoError(h.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
}

func (h *host) get(dir, name string) string {
	h.t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(h.t, err)
	return string(b)
}
