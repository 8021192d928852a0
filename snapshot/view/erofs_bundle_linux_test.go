package view

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/tree"
)

// Whatever the changes are: places do not overlap, none is at 0, all are aligned,
// and they are found again from the changes alone.
func TestBundlePlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ch []snapshot.Change
		for i := range rapid.IntRange(0, 40).Draw(t, "n") {
			e := snapshot.Entry{Path: fmt.Sprintf("f%02d", i), Type: snapshot.TypeFile}
			switch rapid.IntRange(0, 9).Draw(t, "kind") {
			case 0:
				ch = append(ch, snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: e.Path}})
				continue
			case 1:
				e.Type = snapshot.TypeDir
			case 2:
				e.Size = rapid.Int64Range(bundleMost-1, bundleMost+1).Draw(t, "size")
			case 3:
				e.Size, e.Chunks = 1000, []snapshot.Chunk{{Off: 0, Len: rapid.Int64Range(999, 1000).Draw(t, "len")}}
			case 4:
				e.Size, e.Link = 5000, "f00"
			default:
				e.Size = rapid.Int64Range(0, 3*bundleBlock).Draw(t, "size")
			}
			ch = append(ch, snapshot.Change{Entry: e})
		}
		p := layBundle(ch)
		require.Zero(t, p.bytes%bundleBlock)
		type run struct{ from, to int64 }
		var runs []run
		objects := map[int32]bool{}
		for i, s := range p.spots {
			e := &ch[i].Entry
			content := !ch[i].Delete && e.Type == snapshot.TypeFile && e.Size > 0
			require.Equal(t, content, s.at > 0 != (s.object > 0), "%+v", ch[i])
			if p.first[i] != int32(i) {
				require.Equal(t, p.spots[p.first[i]], s)
				require.NotEmpty(t, e.Link)
				continue
			}
			if s.object > 0 {
				require.True(t, e.Size >= bundleMost || hasHoles(e))
				require.False(t, objects[s.object])
				objects[s.object] = true
			}
			if s.at > 0 {
				require.Zero(t, s.at%bundleBlock)
				require.GreaterOrEqual(t, s.at, int64(bundleBlock))
				runs = append(runs, run{s.at, s.at + e.Size})
			}
		}
		require.Len(t, objects, p.objects)
		require.True(t, slices.IsSortedFunc(runs, func(a, b run) int {
			if a.to <= b.from {
				return -1
			}
			return 1
		}), "%v", runs)
		if n := len(runs); n > 0 {
			require.LessOrEqual(t, runs[n-1].to, p.bytes)
		}
		for i := range ch {
			ch[i].Entry.Source, ch[i].Entry.Mode = "/x", 0o777 // say nothing of places
		}
		require.Equal(t, p, layBundle(ch))
	})
}

func TestBlockSetProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		blocks := rapid.Int64Range(1, 300).Draw(t, "blocks")
		set, want := newBlockSet(blocks*bundleBlock), make([]bool, blocks)
		for range rapid.IntRange(0, 10).Draw(t, "runs") {
			off := rapid.Int64Range(0, blocks*bundleBlock-1).Draw(t, "off")
			n := rapid.Int64Range(0, blocks*bundleBlock-off).Draw(t, "n")
			set.add(off, n)
			for b := off / bundleBlock; n > 0 && b <= (off+n-1)/bundleBlock; b++ {
				want[b] = true
			}
		}
		got := make([]bool, blocks)
		for i := range got {
			got[i] = true
		}
		require.NoError(t, set.absent(blocks*bundleBlock, func(off, n int64) error {
			require.Positive(t, n)
			for b := off / bundleBlock; b < (off+n)/bundleBlock; b++ {
				require.True(t, got[b], "told twice")
				got[b] = false
			}
			return nil
		}))
		require.Equal(t, want, got)
	})
}

// More objects than are held open, each with a hole, and names that share them.
func TestManyObjects(t *testing.T) {
	h := newErofsHost(t, Options{})
	ch := []snapshot.Change{{Entry: snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755}}}
	const n = maxOpenObjects + 20
	for i := range n {
		ch = append(ch, snapshot.Change{Entry: snapshot.Entry{
			Path: fmt.Sprintf("f%04d", i), Type: snapshot.TypeFile, Mode: 0o644, Size: 9000,
			Chunks: []snapshot.Chunk{{Off: 8192, Len: 808, ID: snapshot.Digest{1}}},
		}})
	}
	last := ch[n].Entry
	ch[n].Entry.Link = last.Path
	last.Link, last.Path = last.Path, "g"
	ch = append(ch, snapshot.Change{Entry: last})
	meter := &Meter{}
	l, err := h.e.Unpack(t.Context(), newID(t), nil, ch, func(_ context.Context, write WriteFunc) error {
		for i := range ch {
			if ch[i].Entry.Type != snapshot.TypeFile {
				require.Error(t, write(i, 0, []byte("x")))
				continue
			}
			require.Error(t, write(i, 8999, []byte("xx")))
			require.Error(t, write(i, -1, []byte("x")))
			if err := write(i, 8192, []byte(fmt.Sprintf("file %04d", min(i, n)))); err != nil {
				return err
			}
		}
		require.Error(t, write(-1, 0, nil))
		require.Error(t, write(len(ch), 0, nil))
		return nil
	}, meter)
	require.NoError(t, err)
	require.Equal(t, int64(9*(n+1)), meter.Written())
	h.e.Locate(l, ch)
	require.Equal(t, ch[n].Entry.Source, ch[n+1].Entry.Source)
	m, err := tree.Apply(nil, ch)
	require.NoError(t, err)
	want := map[string]string{}
	for i := 1; i <= n; i++ {
		text := make([]byte, 9000)
		copy(text[8192:], fmt.Sprintf("file %04d", i))
		want[ch[i].Entry.Path] = string(text)
	}
	want["g"] = want[fmt.Sprintf("f%04d", n-1)]
	l = h.image(l, nil, m)
	h.shows(l, want)
	v := h.prepare(l, nil)
	a, err := os.Stat(filepath.Join(v.Target, "g"))
	require.NoError(t, err)
	b, err := os.Stat(filepath.Join(v.Target, fmt.Sprintf("f%04d", n-1)))
	require.NoError(t, err)
	require.True(t, os.SameFile(a, b))
	require.NoError(t, h.e.Discard(t.Context(), v))

	header, err := os.ReadFile(h.d.abs(bundleOf(l.ID)))
	require.NoError(t, err)
	require.Equal(t, bundleHeader(l.ID), header)
	require.Equal(t, bundleMagic+"\x01\x00\x00\x00"+string(l.ID), string(header[:12+26]))
}
