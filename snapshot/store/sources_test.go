package store

import (
	"bytes"
	"encoding/gob"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

func bareStore(t testing.TB) *Store {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "manifests"), 0o700))
	return newStore(dir, Options{})
}

func TestSourcesRoundTrip(t *testing.T) {
	s := bareStore(t)
	d := snapshot.Digest{7}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 50).Draw(t, "entries")
		m, bare := &snapshot.Manifest{}, &snapshot.Manifest{}
		for i := range n {
			e := snapshot.Entry{Path: fmt.Sprintf("p\xff%d", i), Type: snapshot.TypeFile}
			bare.Entries = append(bare.Entries, e)
			size := rapid.Int64Range(0, 1000).Draw(t, "size")
			bare.Entries[i].Size, e.Size = size, size
			switch rapid.IntRange(0, 5).Draw(t, "kind") {
			case 4, 5: // wherever it is: a bundle may hold what stands elsewhere in the tree
				e.Source = s.dir + "/views/c/uc/bundle"
				e.SourceAt = rapid.Int64Range(1, 1<<40).Draw(t, "at")
			case 1:
				e.Source = s.dir + "/views/a/" + e.Path
			case 2:
				e.Source = s.dir + "/views/b/" + e.Path
			case 3:
				e.Source = s.dir + "/views/b/else\nwhere"
			}
			m.Entries = append(m.Entries, e)
		}
		b, err := s.encodeSources(d, m)
		require.NoError(t, err)
		require.NoError(t, s.decodeSources(b[len(srcMagic):], d, bare))
		require.Equal(t, m, bare)
		require.Error(t, s.decodeSources(b[len(srcMagic):], snapshot.Digest{8}, bare))
	})
}

func TestSourcesAreSmall(t *testing.T) {
	s := bareStore(t)
	m := &snapshot.Manifest{}
	for i := range 100_000 {
		p := fmt.Sprintf("dir%d/file%d", i/100, i)
		m.Entries = append(m.Entries, snapshot.Entry{Path: p, Source: s.dir + "/views/a/ua/" + p})
	}
	b, err := s.encodeSources(snapshot.Digest{}, m)
	require.NoError(t, err)
	require.Less(t, len(b), 100)
}

// A bundle is filled in the order of the tree.
func TestSourcesInABundleAreSmall(t *testing.T) {
	s := bareStore(t)
	m := &snapshot.Manifest{}
	at := int64(512)
	for i := range 100_000 {
		size := int64(i % 1000)
		m.Entries = append(m.Entries, snapshot.Entry{
			Path: fmt.Sprintf("dir%d/file%d", i/100, i), Size: size, Source: s.dir + "/views/a/ua/bundle", SourceAt: at,
		})
		at += (size + 511) / 512 * 512
	}
	b, err := s.encodeSources(snapshot.Digest{}, m)
	require.NoError(t, err)
	require.Less(t, len(b), 200_100)
}

func TestSourcesOutsideAreRefused(t *testing.T) {
	s := bareStore(t)
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Path: "f", Source: s.dir + "-other/f"}}}
	_, err := s.encodeSources(snapshot.Digest{}, m)
	require.ErrorContains(t, err, "outside of the store")
}

func TestFaninFile(t *testing.T) {
	s := bareStore(t)
	id := newID(t)
	want := []snapshot.Change{
		{Delete: true, Entry: snapshot.Entry{Path: "a\xffb"}},
		{Entry: snapshot.Entry{
			Path: "c", Type: snapshot.TypeFile, Mode: 0o644, Size: 3, MTime: -5,
			Source: s.dir + "/views/x/ux/c", Xattrs: []snapshot.Xattr{{Name: "user.a", Value: []byte{0}}},
			Chunks: []snapshot.Chunk{{Off: 0, Len: 3, ID: snapshot.Digest{1}}},
		}},
	}
	require.NoError(t, s.writeFanin(id, len(want), view.ChangesOf(want)))
	got, err := s.readFanin(id).List()
	require.NoError(t, err)
	require.Equal(t, want, got)
	b, err := os.ReadFile(s.faninPath(id))
	require.NoError(t, err)
	for i := range b {
		bad := append([]byte(nil), b...)
		bad[i] ^= 1
		require.NoError(t, os.WriteFile(s.faninPath(id), bad, 0o600))
		_, err := s.readFanin(id).List()
		require.Error(t, err, "byte %d", i)
	}
	// Version 1 is one list.
	one := want
	one[1].Entry.Source = "views/x/ux/c"
	text := bytes.NewBufferString(faninMagic[:len(faninMagic)-1] + "\x01")
	require.NoError(t, gob.NewEncoder(text).Encode(one))
	require.NoError(t, writeSummed(s.faninPath(id), text.Bytes()))
	one[1].Entry.Source = s.dir + "/views/x/ux/c"
	got, err = s.readFanin(id).List()
	require.NoError(t, err)
	require.Equal(t, one, got)
	n, err := s.eachOfFanin(id, nil)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	b[len(faninMagic)-1] = 3
	require.NoError(t, os.WriteFile(s.faninPath(id), b, 0o600))
	_, err = s.readFanin(id).List()
	require.ErrorIs(t, err, snapshot.ErrNewerFormat)
}

func FuzzSources(f *testing.F) {
	s := bareStore(f)
	m := func() *snapshot.Manifest {
		return &snapshot.Manifest{Entries: []snapshot.Entry{{Path: ""}, {Path: "a"}, {Path: "b"}}}
	}
	x := m()
	x.Entries[1].Source = s.dir + "/d/a"
	x.Entries[2].Source, x.Entries[2].SourceAt = s.dir+"/e/z", 512
	b, err := s.encodeSources(snapshot.Digest{}, x)
	require.NoError(f, err)
	f.Add(b[len(srcMagic):])
	f.Fuzz(func(_ *testing.T, b []byte) {
		s.decodeSources(b, snapshot.Digest{}, m())
	})
}
