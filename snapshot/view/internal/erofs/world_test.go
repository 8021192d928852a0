package erofs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

// run is a piece of a file's data; what is between runs is a hole.
type run struct {
	off  int64
	data []byte
}

// tester is what a test and a check by rapid have in common.
type tester interface {
	require.TestingT
	Helper()
	Fatalf(format string, args ...any)
	TempDir() string
	Context() context.Context
}

// check is a check by rapid with a directory.
type check struct {
	*rapid.T
	dir string
}

func (c check) TempDir() string {
	dir, err := os.MkdirTemp(c.dir, "")
	require.NoError(c, err)
	return dir
}

// world is a tree with the files' data, and where that was put.
type world struct {
	t       tester
	dir     string
	block   uint8
	entries []snapshot.Entry
	data    map[string][]run // by first name
	objects map[string]bool  // files whose data goes to an object
	places  map[string]Content
	bundles []*bytes.Buffer
	scatter bool // runs of a file go to different bundles
}

func newWorld(t tester, bundles int) *world {
	w := &world{
		t: t, dir: t.TempDir(), block: DefaultBlockBits,
		data: map[string][]run{}, objects: map[string]bool{}, places: map[string]Content{},
	}
	for range bundles {
		w.bundles = append(w.bundles, &bytes.Buffer{})
	}
	w.add(snapshot.Entry{Type: snapshot.TypeDir, Mode: 0o755, MTime: 1_700_000_000_123456789})
	return w
}

func (w *world) add(e snapshot.Entry) { w.entries = append(w.entries, e) }

// with fills in what most entries have.
func with(path string, t snapshot.Type, f func(*snapshot.Entry)) snapshot.Entry {
	e := snapshot.Entry{Path: path, Type: t, Mode: 0o644, MTime: 1_600_000_000_000000001}
	switch t {
	case snapshot.TypeDir:
		e.Mode = 0o755
	case snapshot.TypeSymlink:
		e.Mode = 0o777
	}
	if f != nil {
		f(&e)
	}
	return e
}

func (w *world) folder(path string) { w.add(with(path, snapshot.TypeDir, nil)) }

// file adds a file with data all through.
func (w *world) file(path string, data []byte) *snapshot.Entry {
	var runs []run
	if len(data) > 0 {
		runs = []run{{0, data}}
	}
	return w.sparse(path, int64(len(data)), runs...)
}

// sparse adds a file of that size with data in runs only.
func (w *world) sparse(path string, size int64, runs ...run) *snapshot.Entry {
	e := with(path, snapshot.TypeFile, nil)
	e.Size, e.Chunks = size, []snapshot.Chunk{}
	for _, r := range runs {
		e.Chunks = append(e.Chunks, snapshot.Chunk{Off: r.off, Len: int64(len(r.data))})
	}
	w.data[path] = runs
	w.add(e)
	return &w.entries[len(w.entries)-1]
}

// link adds a second name of what is at first.
func (w *world) link(path, first string) {
	for i := range w.entries {
		if e := &w.entries[i]; e.Path == first {
			e.Link = first
			c := *e
			c.Path = path
			w.add(c)
			return
		}
	}
	w.t.Fatalf("no entry %q", first)
}

func (w *world) manifest() *snapshot.Manifest {
	slices.SortFunc(w.entries, func(a, b snapshot.Entry) int { return snapshot.ComparePaths(a.Path, b.Path) })
	return &snapshot.Manifest{Entries: w.entries}
}

// settle puts all data that has no place yet into bundles and objects.
func (w *world) settle() {
	n := 0
	for i := range w.entries {
		e := &w.entries[i]
		if _, ok := w.places[e.Path]; ok || e.Type != snapshot.TypeFile || e.Link != "" && e.Link != e.Path {
			continue
		}
		if w.objects[e.Path] {
			w.places[e.Path] = Content{Object: w.object(e)}
			continue
		}
		var c Content
		for _, r := range w.data[e.Path] {
			d := n % len(w.bundles)
			c.Extents = append(c.Extents, Extent{Off: r.off, Len: int64(len(r.data)), Device: d, At: w.pack(d, r.data)})
			if w.scatter {
				n++
			}
		}
		n++
		w.places[e.Path] = c
	}
}

// pack appends data to a bundle, padded to a block.
func (w *world) pack(d int, data []byte) int64 {
	b, at := w.bundles[d], int64(w.bundles[d].Len())
	b.Write(data)
	b.Write(make([]byte, roundUp(at+int64(len(data)), 1<<w.block)-at-int64(len(data))))
	return at
}

func (w *world) objectDir() string { return filepath.Join(w.dir, "objects") }

func (w *world) object(e *snapshot.Entry) string {
	name := fmt.Sprintf("/%02x/%060x", len(e.Path)%256, sha256.Sum256([]byte(e.Path)))
	path := w.objectDir() + name
	require.NoError(w.t, os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	require.NoError(w.t, err)
	defer f.Close()
	require.NoError(w.t, f.Truncate(e.Size))
	for _, r := range w.data[e.Path] {
		_, err := f.WriteAt(r.data, r.off)
		require.NoError(w.t, err)
	}
	return name
}

func (w *world) tree() Tree {
	w.settle()
	return Entries(w.manifest(), func(e *snapshot.Entry) (Content, error) { return w.places[e.Path], nil })
}

func (w *world) tags() (tags []string) {
	for i := range w.bundles {
		tags = append(tags, fmt.Sprintf("bundle-%d", i))
	}
	return tags
}

func (w *world) options() Options { return Options{Devices: w.tags(), BlockBits: w.block} }

// image writes the image and the bundles as files.
func (w *world) image(name string, o Options) (image string, devices []string, info Info) {
	image = filepath.Join(w.dir, name)
	f, err := os.Create(image)
	require.NoError(w.t, err)
	info, err = Write(w.t.Context(), f, o, w.tree())
	require.NoError(w.t, err)
	require.NoError(w.t, f.Close())
	for i, b := range w.bundles {
		path := filepath.Join(w.dir, fmt.Sprintf("bundle%d", i))
		require.NoError(w.t, os.WriteFile(path, b.Bytes(), 0o644))
		devices = append(devices, path)
	}
	return image, devices, info
}

// memory is a file in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if need := int(off) + len(p); need > len(m.b) {
		m.b = append(m.b, make([]byte, need-len(m.b))...)
	}
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m.b).ReadAt(p, off) }

// bytesOf makes n bytes that differ from any other call's, in every block.
func bytesOf(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32() | 1) // never zero: a hole can't look like data
	}
	return b
}

func testRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// everything adds one of each kind of thing that a manifest can say.
func (w *world) everything() {
	r := testRand(1)
	w.file("empty", nil)
	for _, n := range []int{1, 511, 512, 513, 4095, 4096, 4097, 70_000, 1 << 20} {
		w.file(fmt.Sprintf("size-%d", n), bytesOf(r, n))
	}
	e := w.file("odd", bytesOf(r, 5000))
	e.Mode, e.UID, e.GID, e.MTime = 0o7751, 4_000_000_000, 3_999_999_999, -1
	for i, ns := range []int64{0, -1, 1, -999_999_999, -1_000_000_000, -1_000_000_001, -62_135_596_800_000_000_000 / 10, 1<<63 - 1, -1 << 63, 4_294_967_296_999_999_999} {
		w.add(with(fmt.Sprintf("time-%d", i), snapshot.TypeFifo, func(e *snapshot.Entry) { e.MTime = ns }))
	}
	for _, m := range []uint32{0, 0o400, 0o4755, 0o2755, 0o1777, 0o7777} {
		w.add(with(fmt.Sprintf("mode-%o", m), snapshot.TypeDir, func(e *snapshot.Entry) { e.Mode = m }))
		w.file(fmt.Sprintf("fmode-%o", m), []byte("x")).Mode = m
	}
	w.add(with("fifo", snapshot.TypeFifo, nil))
	w.add(with("socket", snapshot.TypeSocket, nil))
	for _, n := range []int{1, 59, 60, 100, 447, 448, 449, 500, 511, 512, 513, 4095} {
		target := string(bytesOf(r, n))
		w.add(with(fmt.Sprintf("link-%d", n), snapshot.TypeSymlink, func(e *snapshot.Entry) { e.Target = target }))
	}
	w.links(r)
	w.attributes(r)
	w.names()
	w.holes(r)
}

func (w *world) links(r *rand.Rand) {
	w.folder("linked")
	w.folder("linked2")
	w.file("linked/a", bytesOf(r, 3000))
	w.link("linked/b", "linked/a")
	w.link("linked2/c", "linked/a")
	w.add(with("linked/sym", snapshot.TypeSymlink, func(e *snapshot.Entry) { e.Target = "a" }))
	w.link("linked/sym2", "linked/sym")
	w.add(with("linked/fifo", snapshot.TypeFifo, nil))
	w.link("linked2/fifo", "linked/fifo")
}

func (w *world) attributes(r *rand.Rand) {
	x := func(name string, n int) snapshot.Xattr { return snapshot.Xattr{Name: name, Value: bytesOf(r, n)} }
	w.file("xattr-one", []byte("x")).Xattrs = []snapshot.Xattr{x("user.a", 3)}
	w.file("xattr-empty", []byte("x")).Xattrs = []snapshot.Xattr{{Name: "user.empty"}}
	var many []snapshot.Xattr
	for i := range 250 {
		many = append(many, x(fmt.Sprintf("user.%03d", i), 200+i))
	}
	w.file("xattr-many", []byte("x")).Xattrs = many
	same := bytesOf(r, 3000)
	for i := range 5 {
		w.file(fmt.Sprintf("xattr-large-%d", i), []byte("x")).Xattrs = []snapshot.Xattr{
			x("user.large", 60_000), {Name: "user.same", Value: same}, x("user.small", 10),
		}
	}
	w.file("xattr-largest", []byte("x")).Xattrs = []snapshot.Xattr{x("user.z", maxXattrValue)}
	long := "user." + string(bytes.Repeat([]byte("n"), 250))
	w.add(with("xattr-dir", snapshot.TypeDir, func(e *snapshot.Entry) {
		e.Xattrs = []snapshot.Xattr{
			{Name: nameACLAccess, Value: acl(r.Uint32() % 1000)},
			{Name: nameACLDefault, Value: acl(7)},
			x(long, 100),
		}
	}))
	w.file("xattr-dir/acl", bytesOf(r, 9000)).Xattrs = []snapshot.Xattr{{Name: nameACLAccess, Value: acl(5)}}
}

// acl is a valid one with a named user.
func acl(uid uint32) []byte {
	b := le.AppendUint32(nil, aclVersion)
	for _, e := range [][3]uint32{{aclUserObj, 6, noID}, {aclUser, 7, uid}, {aclGroupObj, 4, noID}, {aclMask, 7, noID}, {aclOther, 4, noID}} {
		b = le.AppendUint16(le.AppendUint16(b, uint16(e[0])), uint16(e[1]))
		b = le.AppendUint32(b, e[2])
	}
	return b
}

// names are those that sort around "." and "..", long ones and odd ones.
func (w *world) names() {
	w.folder("names")
	for _, n := range []string{
		"!", "-", "-a", "+", " ", "\n", "\t", "\x01", "...", ".-", "..-", "..a", ".a", "..!", ".!", "/"[:0] + "0", "a", "a-", "a.b", "ab",
		"\xff", "\xff\xfe", "\x80a", "ä", "\xc3", "日本",
	} {
		w.file("names/"+n, []byte(n))
	}
	w.folder("names/a-d")
	w.file("names/a-d/x", []byte("1"))
	w.folder("names/a-")
	w.entries = w.entries[:len(w.entries)-1] // it is a file already
	for c := byte('a'); c <= 'z'; c++ {
		name := string(bytes.Repeat([]byte{c}, 255))
		w.file("names/"+name, []byte{c})
		w.file("names/"+name[:254]+"\xff", []byte{c, c})
	}
	path := "deep"
	for len(path) < 4000 {
		w.folder(path)
		path += "/d"
	}
	w.file(path, []byte("bottom"))
	path = "long"
	for i := range 15 {
		w.folder(path)
		path += "/" + string(bytes.Repeat([]byte{byte('a' + i)}, 255))
	}
	w.file(path, []byte("bottom"))
}

func (w *world) holes(r *rand.Rand) {
	w.sparse("hole-all", 123_457)
	w.sparse("hole-1T", 1<<40+5)
	w.sparse("hole-8E", 1<<56)
	w.sparse("hole-front", 65536+100, run{65536, bytesOf(r, 100)})
	w.sparse("hole-end", 1<<20, run{0, bytesOf(r, 4096)})
	w.sparse("hole-middle", 1<<20, run{0, bytesOf(r, 8192)}, run{1<<20 - 12288, bytesOf(r, 12288)})
	w.sparse("hole-many", 1<<18+7, run{4096, bytesOf(r, 4096)}, run{12288, bytesOf(r, 8192)}, run{1 << 17, bytesOf(r, 4096)}, run{1 << 18, bytesOf(r, 7)})
	w.sparse("two-runs", 12288, run{0, bytesOf(r, 4096)}, run{4096, bytesOf(r, 8192)})
}
