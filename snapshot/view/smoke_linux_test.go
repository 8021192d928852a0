package view

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

func tid(s string) snapshot.ID { return snapshot.ID(strings.Repeat("0", 26-len(s)) + s) }

func TestSmoke(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	root := t.TempDir()
	d, err := NewOverlay(root, Options{Owners: true})
	require.NoError(t, err)
	ctx := t.Context()
	t.Cleanup(func() { d.Reconcile(ctx, nil, nil) })
	tgt := filepath.Join(t.TempDir(), "v")
	run := func(id string, base *Layer, man *snapshot.Manifest, f *Fanin, job func(p string)) (*Layer, *snapshot.Manifest) {
		v, err := d.Prepare(ctx, Spec{ID: tid(id), Base: base, Fanin: f, Target: tgt})
		require.NoError(t, err)
		job(tgt)
		require.NoError(t, d.Seal(ctx, v))
		if f != nil {
			man, err = tree.Apply(man, f.Changes)
			require.NoError(t, err)
		}
		ch, err := d.Changes(ctx, &v.Layer, man)
		require.NoError(t, err)
		for _, c := range ch {
			t.Log(id, c.Delete, c.Replace, c.Entry.Path, c.Entry.Type, c.Entry.Link, c.Entry.Source)
		}
		m, err := tree.Apply(man, ch)
		require.NoError(t, err)
		require.NoError(t, tree.Validate(m))
		return &v.Layer, m
	}
	l1, m1 := run("1", nil, nil, nil, func(p string) {
		os.MkdirAll(p+"/a/b/c", 0o755)
		os.WriteFile(p+"/a/b/c/f", []byte("one"), 0o644)
		os.WriteFile(p+"/a/x", []byte("x"), 0o644)
		os.Link(p+"/a/x", p+"/y")
	})
	l2, m2 := run("2", l1, m1, nil, func(p string) {
		require.NoError(t, os.Rename(p+"/a", p+"/z"))
		require.NoError(t, os.Rename(p+"/z/b", p+"/z/q"))
		require.NoError(t, os.Chmod(p+"/z/q/c/f", 0o600))
		os.WriteFile(p+"/new2", []byte("two"), 0o644)
	})
	l3, m3 := run("3", l1, m1, nil, func(p string) {
		os.WriteFile(p+"/new3", []byte("three"), 0o644)
	})
	_ = l3
	ch := []snapshot.Change{}
	for _, c := range tree.Diff(m1, m3) {
		if c.Entry.Path != "" {
			ch = append(ch, c)
		}
	}
	_, m4 := run("4", l2, m2, &Fanin{Changes: ch}, func(p string) {
		b, err := os.ReadFile(p + "/new3")
		require.NoError(t, err)
		require.Equal(t, "three", string(b))
		b, err = os.ReadFile(p + "/z/q/c/f")
		require.NoError(t, err)
		require.Equal(t, "one", string(b))
		require.NoError(t, os.Chmod(p+"/new3", 0o600))
	})
	_ = m4
}

func TestProbeSmoke(t *testing.T) {
	testenv.Require(t, testenv.Overlay)
	t.Log(Probe(filepath.Join(t.TempDir(), "x")))
	require.True(t, probeOverlay(t.TempDir()).OK)
}
