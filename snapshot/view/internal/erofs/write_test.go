package erofs

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// The bytes of an image are part of no contract, but they must not change
// unnoticed: hosts keep images, and nids, over an update.
func TestBytesAreTheSameAsEver(t *testing.T) {
	w := newWorld(t, 3)
	w.scatter = true
	w.everything()
	m, info := w.written(w.options())
	sum := sha256.Sum256(m.b)
	require.Equal(t, "91301b384a33ee266d446a13c4e943fc177b53b1cf47e5745fa65bccbe13e5e1", hex.EncodeToString(sum[:]))
	require.Equal(t, int64(len(m.b)), info.Bytes)
}

func TestOneEntry(t *testing.T) {
	w := newWorld(t, 0)
	m, info := w.written(w.options())
	require.Equal(t, int64(1), info.Inodes)
	require.Equal(t, map[string]uint64{"": firstNID}, numbers(t, m))
}

func TestNeedsOfDevices(t *testing.T) {
	w := newWorld(t, 3)
	w.file("a", make([]byte, 700))
	w.file("b", make([]byte, 10))
	w.file("c", nil)
	m, info := w.written(w.options())
	want := []Need{{"bundle-0", 1024}, {"bundle-1", 512}, {"bundle-2", 0}}
	require.Equal(t, want, info.Devices)
	img, err := Open(m)
	require.NoError(t, err)
	require.Equal(t, want, img.Devices)
	require.Equal(t, uint64(info.Inodes), img.Inodes())
	require.Equal(t, info.UUID, img.UUID())
}

// A base that lost nearly everything does not make its child's image as large.
func TestShrunkTreeGetsNewPlaces(t *testing.T) {
	o := Options{Devices: []string{"d"}}
	base, small := &memory{}, &memory{}
	_, err := Write(t.Context(), base, o, synthetic(50_000, 1))
	require.NoError(t, err)
	o.Base = base
	last := ""
	half := func(visit func(*snapshot.Entry, Content) error) error {
		n := 0
		return synthetic(50_000, 1)(func(e *snapshot.Entry, c Content) error {
			if n++; e.Type == snapshot.TypeFile && n%2 == 0 {
				return nil
			}
			last = e.Path
			return visit(e, c)
		})
	}
	info, err := Write(t.Context(), &memory{}, o, half)
	require.NoError(t, err)
	require.Equal(t, info.Inodes, info.Kept)

	keep := last
	few := func(visit func(*snapshot.Entry, Content) error) error {
		return half(func(e *snapshot.Entry, c Content) error {
			if e.Type != snapshot.TypeDir && e.Path != keep {
				return nil
			}
			return visit(e, c)
		})
	}
	info, err = Write(t.Context(), small, o, few)
	require.NoError(t, err)
	require.Zero(t, info.Kept)
	require.Less(t, info.Bytes, int64(2<<20))
	require.NoError(t, verify(small))
}

// The root's number has 16 bits. When it grew and no small one is free, all move.
func TestRootThatGrew(t *testing.T) {
	o := Options{Devices: []string{"d"}}
	grown := func(visit func(*snapshot.Entry, Content) error) error {
		return synthetic(50_000, 1)(func(e *snapshot.Entry, c Content) error {
			if e.Path == "" {
				e.Xattrs = []snapshot.Xattr{{Name: "user.a", Value: make([]byte, 100)}}
			}
			return visit(e, c)
		})
	}
	base, child := &memory{}, &memory{}
	_, err := Write(t.Context(), base, o, synthetic(50_000, 1))
	require.NoError(t, err)
	o.Base = base
	info, err := Write(t.Context(), child, o, grown)
	require.NoError(t, err)
	require.Zero(t, info.Kept)
	require.NoError(t, verify(child))
	require.Equal(t, uint64(firstNID), numbers(t, child)[""])
}

// Freed places are used again: an image does not grow from child to child.
func TestPlacesAreUsedAgain(t *testing.T) {
	o := Options{}
	var first int64
	for generation := range 20 {
		w := newWorld(t, 1)
		for i := range 1000 {
			name := fmt.Sprintf("f%04d", i)
			if i%10 == generation%10 {
				name = fmt.Sprintf("f%04d-%d", i, generation)
			}
			w.file(name, []byte(name))
		}
		o.Devices = w.tags()
		m, info := w.written(o)
		o.Base = m
		if generation == 0 {
			first = info.Bytes
		} else {
			require.GreaterOrEqual(t, info.Kept, int64(800))
		}
		require.Less(t, info.Bytes, first+first/5, "generation %d", generation)
	}
}

func TestPlaceErrorIsTold(t *testing.T) {
	gone := errors.New("gone")
	m := &snapshot.Manifest{Entries: []snapshot.Entry{with("", snapshot.TypeDir, nil), with("f", snapshot.TypeFile, nil)}}
	_, err := Write(t.Context(), &memory{}, Options{}, Entries(m, func(*snapshot.Entry) (Content, error) { return Content{}, gone }))
	require.ErrorIs(t, err, gone)
	require.ErrorContains(t, err, `"f"`)
}

func TestIndexes(t *testing.T) {
	at := func(off, n int64) Extent { return Extent{Off: off, Len: n, At: off + 1<<20} }
	for _, c := range []struct {
		size int64
		x    []Extent
		n    int
	}{
		{1, []Extent{at(0, 1)}, 1},
		{1 << 30, []Extent{at(0, 1<<30)}, 1},
		{1 << 30, []Extent{at(0, 1<<29), at(1<<29, 1<<29)}, 1}, // they join
		{1 << 30, nil, 1},
		{1 << 20, []Extent{at(0, 4096)}, 256},
		{1 << 20, []Extent{at(1<<19, 1<<19)}, 2},
		{3 << 19, []Extent{at(1<<19, 1<<19)}, 3},
		{1 << 20, []Extent{{Len: 4096}, {Off: 4096, Len: 1<<20 - 4096}}, 256},
	} {
		var m chunkMap
		require.NoError(t, m.set(c.size, c.x, 9, maxDevices))
		require.Equal(t, c.n, m.n, "%v", c)
	}
	require.ErrorIs(t, new(chunkMap).set(1<<40, []Extent{at(0, 512)}, 9, maxDevices), ErrTooLarge)
}

// A file keeps its number when it gets a name that sorts before its others, when
// it loses its first name, and, under one of its names, when they part.
func TestLinksKeepTheirNumber(t *testing.T) {
	group := func(names ...string) *world {
		w := newWorld(t, 1)
		w.file("0", []byte("other"))
		w.file(names[0], []byte("x"))
		for _, n := range names[1:] {
			w.link(n, names[0])
		}
		return w
	}
	base := group("b", "c", "d")
	b, _ := base.written(base.options())
	was := numbers(t, b)["b"]
	parted := group("b")
	parted.file("c", []byte("x"))
	for name, w := range map[string]*world{
		"a new first name": group("a", "b", "c"),
		"first name gone":  group("c", "d"),
		"the last remains": group("d"),
		"parted":           parted,
	} {
		o := w.options()
		o.Base = b
		w.file("00", []byte("takes the first place that is free"))
		m, _ := w.written(o)
		nids := numbers(t, m)
		require.Equal(t, was, nids[w.manifest().Entries[3].Path], name)
		require.NotEqual(t, was, nids["0"], name)
	}
	o := parted.options()
	o.Base = b
	m, info := parted.written(o)
	require.NotEqual(t, was, numbers(t, m)["c"])
	require.Equal(t, int64(3), info.Kept) // root, 0, b
}

// The placer against a list of what is taken.
func TestPlacer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &placer{}
		taken := map[uint64]bool{0: true, 1: true}
		claim := func(nid, n uint32) {
			for i := uint64(nid); i < uint64(nid)+uint64(n); i++ {
				require.False(t, taken[i], "slot %d", i)
				taken[i] = true
			}
		}
		free := func(uint32) bool { return true }
		for range rapid.IntRange(0, 1).Draw(t, "root first") {
			n := rapid.Uint32Range(1, 20).Draw(t, "slots")
			nid, err := p.take(n, free)
			require.NoError(t, err)
			claim(nid, n)
		}
		wishes := rapid.SliceOfN(rapid.Uint32Range(0, 300), 0, 40).Draw(t, "wishes")
		var wanted []uint32
		for _, w := range wishes {
			if p.want(w) {
				wanted = append(wanted, w)
			}
		}
		for _, w := range wanted {
			n := rapid.Uint32Range(1, 80).Draw(t, "slots")
			if p.keep(w, n) {
				claim(w, n)
			}
		}
		for range rapid.IntRange(0, 40).Draw(t, "takes") {
			n := rapid.Uint32Range(1, 80).Draw(t, "slots")
			odd := rapid.Bool().Draw(t, "odd only")
			nid, err := p.take(n, func(nid uint32) bool { return !odd || nid%2 == 1 })
			require.NoError(t, err)
			require.True(t, !odd || nid%2 == 1)
			claim(nid, n)
		}
		for s := range taken {
			require.True(t, s < firstNID || p.end() > s)
		}
	})
}

func TestPlacerFillsSmallHoles(t *testing.T) {
	p := &placer{}
	for i := range uint32(100) {
		require.True(t, p.keep(10+3*i, 2)) // leaves holes of one
	}
	any := func(uint32) bool { return true }
	large, err := p.take(20, any)
	require.NoError(t, err)
	require.GreaterOrEqual(t, large, uint32(309))
	for i := range uint32(7) {
		nid, err := p.take(1, any)
		require.NoError(t, err)
		require.Equal(t, firstNID+i, nid)
	}
	nid, err := p.take(1, any)
	require.NoError(t, err)
	require.Equal(t, uint32(9), nid)
}

func TestPlacerIsFull(t *testing.T) {
	p := &placer{cursors: [16]uint64{3: 1<<32 - 3}}
	_, err := p.take(3, func(uint32) bool { return true })
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestSplitTime(t *testing.T) {
	for range 1000 {
		ns := int64(rand.Uint64())
		sec, nsec := splitTime(ns)
		require.Less(t, nsec, uint32(1e9))
		require.Equal(t, ns, sec*1e9+int64(nsec)) // wraps back where sec*1e9 wrapped
	}
}
