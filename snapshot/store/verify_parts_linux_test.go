package store

import (
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// What is damaged of a large unpacked layer is found as that of a small one is.
func TestVerifyInParts(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	for what, damage := range map[string]func(b *bench, in Info) string{
		"nothing": func(*bench, Info) string { return "" },
		"mode": func(b *bench, in Info) string {
			return b.saysOf(in, func(m *snapshot.Manifest) { m.Entries[3].Mode ^= 1 })
		},
		"one more": func(b *bench, in Info) string {
			return b.saysOf(in, func(m *snapshot.Manifest) { m.Entries = m.Entries[:len(m.Entries)-1] })
		},
		"one less": func(b *bench, in Info) string {
			return b.saysOf(in, func(m *snapshot.Manifest) {
				m.Entries = append(m.Entries, snapshot.Entry{Path: "zzz", Type: snapshot.TypeFifo, Mode: 0o600})
			})
		},
		"no link": func(b *bench, in Info) string {
			return b.saysOf(in, func(m *snapshot.Manifest) {
				for i := range m.Entries {
					m.Entries[i].Link = ""
				}
			})
		},
		"a link": func(b *bench, in Info) string {
			return b.saysOf(in, func(m *snapshot.Manifest) {
				e, ok := m.Find("d1/small7")
				require.True(t, ok)
				other, ok := m.Find("d2/small8")
				require.True(t, ok)
				path := other.Path
				*other = *e
				other.Path, other.Link, e.Link = path, e.Path, e.Path
			})
		},
		"content": func(b *bench, in Info) string {
			name := b.upper(in.ID, "d1/small7")
			fi, err := os.Stat(name)
			require.NoError(t, err)
			flipFile(t, name, 5)
			require.NoError(t, os.Chtimes(name, fi.ModTime(), fi.ModTime()))
			return "file"
		},
		"sources":  func(b *bench, in Info) string { flipFile(t, b.srcPath(in.ID), 60); return "list of sources" },
		"index":    func(b *bench, in Info) string { flipFile(t, b.indexPath(in.Index), 95); return "index" },
		"manifest": func(b *bench, in Info) string { flipFile(t, b.manifestPath(in.Manifest), 60); return "manifest" },
	} {
		t.Run(what, func(t *testing.T) {
			b := newBench(t, view.NameErofs)
			b.few, b.fewer = 3, 3
			in := b.packed(b.job(fewFiles(t)).ID)[0]
			b.trees.drop(in.ID)
			require.NoError(t, b.Verify(t.Context(), in.ID))
			is := damage(b, in)
			err := b.Verify(t.Context(), in.ID)
			if is == "" {
				require.NoError(t, err)
				return
			}
			var corrupt *snapshot.CorruptError
			require.ErrorAs(t, err, &corrupt)
			require.Equal(t, is, corrupt.What)
		})
	}
}

// saysOf makes the manifest of a layer say something else.
func (b *bench) saysOf(in Info, fn func(m *snapshot.Manifest)) string {
	b.t.Helper()
	was, err := b.Tree(ctxOf(b.t), in.ID)
	require.NoError(b.t, err)
	m := &snapshot.Manifest{Entries: slices.Clone(was.Entries)}
	fn(m)
	d := digestOf(b.t, m)
	require.NoError(b.t, b.writeManifest(ctxOf(b.t), m, d))
	require.NoError(b.t, b.writeSources(in.ID, d, m))
	b.mu.Lock()
	defer b.mu.Unlock()
	b.layers[in.ID].info.Manifest = d
	b.trees.drop(in.ID)
	return "layer"
}
