package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
)

// What an image can't be made of.
func TestErofsImageRefuses(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, m := h.unpack(nil, nil, map[string]string{"small": "s", "big": large})
	with := func(change func(e *snapshot.Entry)) *snapshot.Manifest {
		c := &snapshot.Manifest{Entries: append([]snapshot.Entry{}, m.Entries...)}
		change(&c.Entries[1]) // big
		return c
	}
	var un *snapshot.UnsupportedError
	var co *snapshot.CorruptError
	for name, c := range map[string]struct {
		m      *snapshot.Manifest
		target any
	}{
		"nobody's":                {with(func(e *snapshot.Entry) { e.UID = 1<<32 - 1 }), &un},
		"no group's":              {with(func(e *snapshot.Entry) { e.GID = 1<<32 - 1 }), &un},
		"an attribute too large":  {with(func(e *snapshot.Entry) { e.Xattrs = []snapshot.Xattr{{Name: "user.x", Value: make([]byte, 1<<16)}} }), &un},
		"no source":               {with(func(e *snapshot.Entry) { e.Source = "" }), &co},
		"another size":            {with(func(e *snapshot.Entry) { e.Size++ }), &co},
		"a source that is gone":   {with(func(e *snapshot.Entry) { e.Source += "x" }), &co},
		"a foreign file, missing": {with(func(e *snapshot.Entry) { e.Source = "/nowhere" }), nil},
		"a way out":               {with(func(e *snapshot.Entry) { e.Source = h.d.root + "/views/../../etc/passwd" }), nil},
		"beyond the bundle":       {with(func(e *snapshot.Entry) { e.Source, e.SourceAt = h.d.abs(bundleOf(l.ID)), 512 }), nil},
		"a bundle that is gone":   {with(func(e *snapshot.Entry) { e.Source, e.SourceAt = h.d.abs(bundleOf(newID(t))), 512 }), nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.e.Image(t.Context(), l, nil, c.m)
			require.Error(t, err)
			if c.target != nil {
				require.ErrorAs(t, err, c.target)
			}
			h.shows(l, map[string]string{"small": "s", "big": large}) // as before
		})
	}
	left, err := os.ReadDir(h.d.abs(trashDir))
	require.NoError(t, err)
	require.Empty(t, left)

	for name, e := range map[string]snapshot.Entry{
		"an attribute too large": {Path: "x", Type: snapshot.TypeFile, Xattrs: []snapshot.Xattr{{Name: "user.x", Value: make([]byte, 1<<16)}}},
	} {
		t.Run("unpack of "+name, func(t *testing.T) {
			id := newID(t)
			_, err := h.e.Unpack(t.Context(), id, nil, []snapshot.Change{{Entry: e}}, func(context.Context, WriteFunc) error {
				t.Error("bytes were asked for")
				return nil
			}, nil)
			require.ErrorAs(t, err, &un)
			require.NoDirExists(t, h.d.dir(id))
		})
	}
}

// A source outside of views/ is copied once.
func TestErofsForeignSource(t *testing.T) {
	h := newErofsHost(t, Options{})
	src := filepath.Join(t.TempDir(), "f")
	require.NoError(t, os.WriteFile(src, []byte("from elsewhere"), 0o600))
	l, m := h.job(nil, nil, func(dir string) { h.put(dir, "f", "from elsewhere") })
	m.Entries[1].Source = src
	l = h.image(l, nil, m)
	require.NoError(t, os.Remove(src))
	h.shows(l, map[string]string{"f": "from elsewhere"})
	require.Equal(t, []string{"views/" + string(l.ID)}, l.Data)
}

// A bundle that lost bytes, or was never whole, gives an error and no view.
func TestErofsDamagedBundle(t *testing.T) {
	h := newErofsHost(t, Options{})
	for name, damage := range map[string]func(p string) error{
		"short": func(p string) error { return os.Truncate(p, 4096) },
		"sparse": func(p string) error {
			if err := os.Truncate(p, 4096); err != nil {
				return err
			}
			return os.Truncate(p, 1<<20)
		},
		"gone": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			l, m := h.unpack(nil, nil, map[string]string{"a": strings.Repeat("a", 10_000), "b": strings.Repeat("b", 500_000)})
			require.NoError(t, damage(h.d.abs(bundleOf(l.ID))))
			id := newID(t)
			_, err := h.e.Prepare(t.Context(), Spec{ID: id, Base: l, Target: filepath.Join(h.slot, "x")})
			var co *snapshot.CorruptError
			require.ErrorAs(t, err, &co)
			require.NoDirExists(t, h.d.dir(id))
			_, err = h.e.Image(t.Context(), l, nil, m)
			require.ErrorAs(t, err, &co)
		})
	}
}

// An image that is gone, cut short or damaged where it says what it is gives an
// error, and can be made again.
func TestErofsDamagedImage(t *testing.T) {
	h := newErofsHost(t, Options{})
	l, m := h.unpack(nil, nil, map[string]string{"a": "a", "big": large})
	for name, damage := range map[string]func(p string) error{
		"gone":  os.Remove,
		"short": func(p string) error { return os.Truncate(p, 2048) },
		"empty": func(p string) error { return os.Truncate(p, 0) },
		"another": func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			b[1024+20] ^= 1
			return os.WriteFile(p, b, 0o600)
		},
	} {
		require.NoError(t, h.e.Close())
		require.NoError(t, damage(h.d.abs(l.Image)), name)
		id := newID(t)
		_, err := h.e.Prepare(t.Context(), Spec{ID: id, Base: l, Target: filepath.Join(h.slot, "x")})
		var co *snapshot.CorruptError
		require.ErrorAs(t, err, &co, name)
		require.Equal(t, h.d.abs(l.Image), co.Name)
		require.NoDirExists(t, h.d.dir(id))
		h.shows(h.image(l, nil, m), map[string]string{"a": "a", "big": large})
	}
}

// No room: what was begun is gone, and what was there still is.
func TestErofsFullDisk(t *testing.T) {
	needErofs(t)
	dir := testenv.Disk(t, testenv.Ext4, 32<<20)
	d, err := NewErofs(filepath.Join(dir, "s"), Options{Owners: true})
	require.NoError(t, err)
	e := d.(*Erofs)
	h := &ehost{&host{t: t, d: e.Overlay, root: filepath.Join(dir, "s"), slot: filepath.Join(dir, "slots")}, e}
	defer func() {
		_, err := e.Reconcile(context.Background(), nil, nil)
		require.NoError(t, err)
	}()
	l, m := h.unpack(nil, nil, map[string]string{"a": "a", "big": large})
	var ch []snapshot.Change
	for i := range 60 {
		ch = append(ch, snapshot.Change{Entry: snapshot.Entry{Path: fmt.Sprintf("f%02d", i), Type: snapshot.TypeFile, Mode: 0o644, Size: 900_000}})
	}
	id := newID(t)
	_, err = e.Unpack(t.Context(), id, l, ch, func(_ context.Context, write WriteFunc) error {
		for i := range ch {
			if err := write(i, 0, make([]byte, 900_000)); err != nil {
				return err
			}
		}
		return nil
	}, nil)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoDirExists(t, h.d.dir(id))

	fill, err := os.Create(filepath.Join(dir, "fill"))
	require.NoError(t, err)
	for { // to the last block
		if _, err := fill.Write(make([]byte, 4096)); err != nil {
			break
		}
	}
	_, err = e.Image(t.Context(), l, nil, m)
	require.NoError(t, err, "an image that is there takes no room to be had again")
	other := &snapshot.Manifest{Entries: append([]snapshot.Entry{}, m.Entries...)}
	other.Entries[0].MTime++
	_, err = e.Image(t.Context(), l, nil, other)
	require.ErrorIs(t, err, unix.ENOSPC)
	require.NoError(t, fill.Close())
	require.NoError(t, os.Remove(fill.Name()))
	h.shows(l, map[string]string{"a": "a", "big": large})
	left, err := os.ReadDir(h.d.abs(trashDir))
	require.NoError(t, err)
	require.Empty(t, left)
}
