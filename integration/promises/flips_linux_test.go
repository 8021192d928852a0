package promises

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/store"
	"github.com/roost-ci/roost/snapshot/view"
)

// objects are a real snapshot as it is stored and sent.
type objects struct {
	manifest, index []byte
	packs           map[snapshot.Digest][]byte
	names           []snapshot.Digest // of packs
	plain           map[string]string // what extracting gives
}

func realObjects(t *testing.T) *objects {
	l := newLab(t, tempDir(t), view.NameCopy)
	one := l.job(func(dir string) { require.NoError(t, garden(dir, 5, 60, true)) })
	two := l.job(func(dir string) { require.NoError(t, garden(dir, 6, 30, true)) }, one)
	in := l.packed(one, two)[1]
	o := &objects{packs: map[snapshot.Digest][]byte{}}
	read := func(parts ...string) []byte {
		b, err := os.ReadFile(filepath.Join(append([]string{l.dir, "store"}, parts...)...))
		require.NoError(t, err)
		return b
	}
	o.manifest, o.index = read("manifests", in.Manifest.String()), read("indexes", in.Index.String())
	for _, b := range in.Blobs {
		if b.Digest != in.Index {
			o.packs[b.Digest] = read("packs", b.Digest.String())
			o.names = append(o.names, b.Digest)
		}
	}
	require.NotEmpty(t, o.names)
	var err error
	o.plain, err = o.extract(o.open)
	require.NoError(t, err)
	return o
}

func (o *objects) open(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.packs[d][off : off+n])), nil
}

// extract returns what is written, by place.
func (o *objects) extract(open store.OpenBlobFunc) (map[string]string, error) {
	ix, err := pack.ReadIndex(bytes.NewReader(o.index))
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	got := map[string]string{}
	err = pack.Extract(context.Background(), ix, pack.ExtractOptions{Key: domainKey, Workers: 1, Open: open},
		func(i int, off int64, p []byte) error {
			mu.Lock()
			defer mu.Unlock()
			got[ix.Changes[i].Entry.Path+"\x00"+time.Duration(off).String()] = string(p)
			return nil
		})
	return got, err
}

func flipped(b []byte, bit int) []byte {
	c := bytes.Clone(b)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}

// TestFlips flips single bits in what is stored and sent, and reads it as the store
// does: no flip may pass for the object that was asked for, and none may change what
// comes out.
func TestFlips(t *testing.T) {
	began := time.Now()
	n := count(2000, 16_000, 400_000)
	r, _ := seeded(t)
	o := realObjects(t)
	require.NotEqual(t, len(o.manifest), 0)
	refused := 0
	for range n * 2 / 5 {
		bit := r.IntN(len(o.manifest) * 8)
		_, d, err := pack.ReadManifest(bytes.NewReader(flipped(o.manifest, bit)))
		require.True(t, err != nil, "bit %d of a manifest: read as %s", bit, d)
		refused++
	}
	for range n * 2 / 5 {
		bit := r.IntN(len(o.index) * 8)
		_, err := pack.ReadIndex(bytes.NewReader(flipped(o.index, bit)))
		require.Error(t, err, "bit %d of an index", bit)
		refused++
	}
	harmless := 0
	for range n / 5 {
		d := o.names[r.IntN(len(o.names))]
		bit := r.IntN(len(o.packs[d]) * 8)
		bad := flipped(o.packs[d], bit)
		require.NotEqual(t, d, digestOf(bad))
		got, err := o.extract(func(ctx context.Context, of snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			if of != d {
				return o.open(ctx, of, off, n)
			}
			return io.NopCloser(bytes.NewReader(bad[off : off+n])), nil
		})
		if err != nil {
			refused++
			continue
		}
		// Not in a frame that is needed, or not a bit that decompressing heeds. The
		// digest of the file, which whoever asked for it compares, is another anyhow.
		require.Equal(t, o.plain, got, "bit %d of pack %s changes what comes out", bit, d)
		harmless++
	}
	record(t, began, "flipped bits", refused+harmless, "in memory: manifests, indexes and packs; %d refused, %d in packs made no difference, 0 wrong bytes", refused, harmless)
}

// TestFlipsOnDisk flips bits in every kind of file below a store: Verify has to
// find each, or the file is one that can be made again and is.
func TestFlipsOnDisk(t *testing.T) {
	n := count(15, 60, 1000)
	r, _ := seeded(t)
	drivers(t, func(t *testing.T, driver string) {
		began := time.Now()
		l := newLab(t, tempDir(t), driver)
		one := l.job(func(dir string) { require.NoError(t, garden(dir, 7, 50, true)) })
		two := l.job(func(dir string) { require.NoError(t, garden(dir, 8, 20, true)) }, one)
		l.packed(one, two)
		kinds := map[string]int{}
		for range n / len(working(t)) {
			kinds[l.flipOne(r, one, two)]++
		}
		record(t, began, "flipped bits", n/len(working(t)), "on disk, found by verify: %v", kinds)
	})
}

// flipOne flips a bit of a file, looks that it is found, and puts it back.
func (l *lab) flipOne(r *rand.Rand, ids ...snapshot.ID) (kind string) {
	t := l.t
	root := filepath.Join(l.dir, "store")
	byKind := map[string][]string{}
	require.NoError(t, filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel := p[len(root)+1:]
		kind, _, deeper := strings.Cut(rel, "/")
		if fi, err := d.Info(); err != nil || fi.Size() == 0 || !deeper {
			return err // the database and what belongs to it guards itself
		}
		switch parts := strings.Split(rel, "/"); {
		case strings.HasSuffix(rel, ".src"):
			kind = "sources"
		case parts[len(parts)-1] == "meta" && len(parts) == 3:
			return nil // of the copying driver: read once, before packing, and has a sum
		}
		var st [1]byte // a stub, whose content is another layer's, is all hole
		if n, _ := unix.Lgetxattr(p, "trusted.overlay.metacopy", st[:]); n >= 0 {
			return nil
		}
		if parts := strings.Split(rel, "/"); kind == "views" && len(parts) > 2 && len(parts[2]) > 26 {
			kind = "views/" + parts[2][:len(parts[2])-26] // u of an upper, and so on
		}
		byKind[kind] = append(byKind[kind], p)
		return nil
	}))
	var kinds []string
	for k := range byKind {
		kinds = append(kinds, k)
	}
	kind = pickSorted(r, kinds)
	path := pickSorted(r, byKind[kind])
	fi, err := os.Stat(path)
	require.NoError(t, err)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	overwriteFile(t, path, flipped(good, r.IntN(len(good)*8)), fi)
	found := false
	for _, id := range ids {
		found = l.s.Verify(t.Context(), id) != nil || found
	}
	require.True(t, found, "a flipped bit in %s was not found", path)
	overwriteFile(t, path, good, fi)
	l.trustAgain()
	return kind
}

func pickSorted(r *rand.Rand, list []string) string {
	slices.Sort(list)
	return pick(r, list)
}

// trustAgain makes suspect layers what they were: their files are good again.
func (l *lab) trustAgain() {
	require.NoError(l.t, l.s.Close())
	db, err := sql.Open("sqlite", filepath.Join(l.dir, "store", "store.db"))
	require.NoError(l.t, err)
	_, err = db.Exec("UPDATE layers SET state='packed', err=''")
	require.NoError(l.t, err)
	require.NoError(l.t, db.Close())
	l.open()
}

func overwriteFile(t testing.TB, path string, b []byte, fi os.FileInfo) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt(b, 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
}
