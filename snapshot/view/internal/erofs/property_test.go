package erofs

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// genName draws names that like to be prefixes of each other and to sort around
// "." and "..".
func genName() *rapid.Generator[string] {
	short := rapid.SampledFrom([]string{"a", "b", "a.", "a-", "ab", "-", ".a", "..a", "...", "\xff", "é", " "})
	long := rapid.Map(rapid.SliceOfN(rapid.SampledFrom([]byte("ab.-\xff\x01")), 1, 255), func(b []byte) string { return string(b) })
	return rapid.OneOf(short, short, short, long).Filter(func(s string) bool { return checkName(s) == nil })
}

// genWorld draws a tree. Names of other trees turn up in it, so that one can be
// the base of another.
func genWorld(t *rapid.T, tb tester, bundles int) *world {
	w := newWorld(tb, bundles)
	w.scatter = rapid.Bool().Draw(t, "scatter")
	w.block = rapid.SampledFrom([]uint8{9, 9, 12}).Draw(t, "block bits")
	dirs, have := []string{""}, map[string]bool{}
	for i := range rapid.IntRange(0, 40).Draw(t, "entries") {
		path := genName().Draw(t, "name")
		if dir := rapid.SampledFrom(dirs).Draw(t, "in"); dir != "" {
			path = dir + "/" + path
		}
		if have[path] || len(path) > snapshot.MaxPathBytes {
			continue
		}
		have[path] = true
		if genEntry(t, w, path, i) == snapshot.TypeDir {
			dirs = append(dirs, path)
		}
	}
	w.manifest() // sort, so that a first name is known
	genLinks(t, w, dirs, have)
	return w
}

func genEntry(t *rapid.T, w *world, path string, seed int) snapshot.Type {
	typ := rapid.SampledFrom([]snapshot.Type{1, 1, 2, 2, 2, 2, 3, 4, 5}).Draw(t, "type")
	if typ == snapshot.TypeFile {
		genFile(t, w, path, seed)
	} else {
		w.add(with(path, typ, nil))
	}
	e := &w.entries[len(w.entries)-1]
	e.Mode = uint32(rapid.IntRange(0, 0o7777).Draw(t, "mode"))
	e.UID, e.GID = rapid.Uint32Max(1<<32-2).Draw(t, "uid"), rapid.Uint32Max(1<<32-2).Draw(t, "gid")
	e.MTime = rapid.Int64().Draw(t, "mtime")
	if typ == snapshot.TypeSymlink {
		e.Target = strings.Repeat("t", rapid.OneOf(rapid.IntRange(1, 70), rapid.IntRange(400, 520), rapid.IntRange(1, 4095)).Draw(t, "target"))
	}
	if typ == snapshot.TypeFile || typ == snapshot.TypeDir {
		for i := range rapid.SampledFrom([]int{0, 0, 0, 1, 3}).Draw(t, "attributes") {
			n := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 1200)).Draw(t, "value")
			e.Xattrs = append(e.Xattrs, snapshot.Xattr{Name: fmt.Sprintf("user.%d", i), Value: bytes.Repeat([]byte{byte(seed)}, n)})
		}
	}
	return typ
}

func genFile(t *rapid.T, w *world, path string, seed int) {
	r := testRand(uint64(seed))
	switch rapid.IntRange(0, 4).Draw(t, "kind of file") {
	case 0: // sparse, on the grid of the larger blocks
		size := rapid.Int64Range(0, 300_000).Draw(t, "size")
		var runs []run
		for off := int64(0); off < size; {
			off += 4096 * rapid.Int64Range(0, 20).Draw(t, "hole")
			n := min(4096*rapid.Int64Range(1, 8).Draw(t, "data"), size-off)
			if n > 0 {
				runs = append(runs, run{off, bytesOf(r, int(n))})
			}
			off += n
		}
		w.sparse(path, size, runs...)
	case 1:
		w.objects[path] = true
		w.file(path, bytesOf(r, rapid.IntRange(0, 9000).Draw(t, "size")))
	default:
		w.file(path, bytesOf(r, rapid.IntRange(0, 9000).Draw(t, "size")))
	}
}

func genLinks(t *rapid.T, w *world, dirs []string, have map[string]bool) {
	firsts := w.entries
	for range rapid.IntRange(0, 4).Draw(t, "links") {
		first := rapid.SampledFrom(firsts).Draw(t, "first")
		dir := rapid.SampledFrom(dirs).Draw(t, "link in")
		path := strings.TrimPrefix(dir+"/z-"+genName().Draw(t, "link"), "/")
		last := path[strings.LastIndexByte(path, '/')+1:]
		if first.Type != snapshot.TypeDir && !have[path] && checkName(last) == nil &&
			len(path) <= snapshot.MaxPathBytes && snapshot.ComparePaths(first.Path, path) < 0 {
			have[path] = true
			w.link(path, first.Path)
		}
	}
}

// written writes w to memory and checks what was written with the strict reader.
func (w *world) written(o Options) (*memory, Info) {
	m := &memory{}
	info, err := Write(w.t.Context(), m, o, w.tree())
	require.NoError(w.t, err)
	require.NoError(w.t, verify(m))
	return m, info
}

func TestSameInputSameBytes(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		rc := check{rt, dir}
		w := genWorld(rt, rc, 2)
		a, info := w.written(w.options())
		b, again := w.written(w.options())
		require.Equal(rc, info, again)
		require.True(rc, bytes.Equal(a.b, b.b))
		require.Equal(rc, info.Bytes, int64(len(a.b)))
	})
}

// Paths that are in base and child keep their numbers, whatever the rest does.
func TestNumbersStay(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		rc := check{rt, dir}
		base, child := genWorld(rt, rc, 1), genWorld(rt, rc, 1)
		if rapid.Bool().Draw(rt, "mostly the same") {
			child = evolve(rt, rc, base)
		}
		b, _ := base.written(base.options())
		o := child.options()
		o.Base = b
		c, info := child.written(o)
		was, is := numbers(rc, b), numbers(t, c)
		checkStable(rc, base, child, was, is)
		require.LessOrEqual(rc, info.Kept, info.Inodes)

		// And once more from the child: a tree that did not change keeps all.
		o.Base = c
		_, again := child.written(o)
		require.Equal(rc, again.Inodes, again.Kept)
	})
}

// evolve takes some entries away from base and adds others.
func evolve(rt *rapid.T, t tester, base *world) *world {
	w := newWorld(t, 1)
	w.block = base.block
	w.entries = nil
	gone := ""
	for _, e := range base.manifest().Entries {
		inGone := gone != "" && strings.HasPrefix(e.Path, gone+"/")
		if e.Path != "" && (inGone || rapid.IntRange(0, 9).Draw(rt, "goes") == 0) {
			if !inGone {
				gone = e.Path
			}
			continue
		}
		w.entries = append(w.entries, e)
	}
	firsts := map[string]string{} // the first name may be gone
	for i := range w.entries {
		e := &w.entries[i]
		old := e.Link
		if old == "" {
			old = e.Path
		} else if firsts[old] == "" {
			firsts[old] = e.Path
		}
		if e.Link != "" {
			e.Link = firsts[old]
		}
		if d, ok := base.data[old]; ok && (e.Link == "" || e.Link == e.Path) {
			w.data[e.Path] = d
			w.objects[e.Path] = base.objects[old]
		}
	}
	for i := range w.entries { // some grow, and must be the ones that move
		if e := &w.entries[i]; e.Link == "" && e.Type == snapshot.TypeDir && len(e.Xattrs) == 0 && rapid.IntRange(0, 9).Draw(rt, "grows") == 0 {
			e.Xattrs = []snapshot.Xattr{{Name: "user.grown", Value: make([]byte, 100)}}
		}
	}
	for i := range rapid.IntRange(0, 5).Draw(rt, "new") {
		w.file(fmt.Sprintf("zz-new-%d", i), bytesOf(testRand(uint64(i)), 100))
		w.file(fmt.Sprintf("!new-%d", i), nil)
	}
	return w
}

// checkStable holds the numbers against each other. An inode may move only if it
// needs more room than before, or if it is not one file any more that was one.
func checkStable(t tester, base, child *world, was, is map[string]uint64) {
	old := map[string]*snapshot.Entry{}
	for i := range base.entries {
		old[base.entries[i].Path] = &base.entries[i]
	}
	for i := range child.entries {
		e := &child.entries[i]
		o := old[e.Path]
		if o == nil || o.Type != e.Type || o.Link != "" || e.Link != "" || !sameRoom(base, child, o, e) {
			continue
		}
		require.Equal(t, was[e.Path], is[e.Path], "%q", e.Path)
	}
}

func sameRoom(base, child *world, a, b *snapshot.Entry) bool {
	var x xattrs
	var s, u shape
	if s.set(a, base.places[a.Path], &x, base.block, 9) != nil || u.set(b, child.places[b.Path], &x, child.block, 9) != nil {
		return false
	}
	return s.slots == u.slots && s.inline == u.inline && base.block == child.block
}
