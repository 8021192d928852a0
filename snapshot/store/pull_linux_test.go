package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// pushed is a line of two snapshots in one store, and what a remote has of it.
type pushed struct {
	b        *bench
	r        *remote
	dir      string
	one, two ImportSpec
}

func newPushed(t *testing.T) *pushed {
	testenv.Require(t, testenv.Linux)
	p := &pushed{b: newBench(t, view.NameCopy), r: newRemote(t), dir: filepath.Join(t.TempDir(), "d")}
	write(t, filepath.Join(p.dir, "a/x"), "x")
	require.NoError(t, os.WriteFile(filepath.Join(p.dir, "a/big"), chaff(1, 3<<20), 0o644))
	one := p.b.create(p.dir, "")
	write(t, filepath.Join(p.dir, "a/y"), "y")
	two := p.b.create(p.dir, one.ID)
	p.one, p.two = p.r.upload(p.b, one.ID), p.r.upload(p.b, two.ID)
	return p
}

func TestPull(t *testing.T) {
	for _, fewer := range []int{0, 2} {
		t.Run(fmt.Sprint(fewer, " entries in memory"), func(t *testing.T) { testPull(t, fewer) })
	}
}

func testPull(t *testing.T, fewer int) {
	p := newPushed(t)
	there := newBench(t, view.NameCopy)
	there.fewer = fewer
	err := there.Pull(t.Context(), p.two, p.r.open, nil)
	require.ErrorIs(t, err, snapshot.ErrNotFound, "its base is missing")
	progress := &Progress{}
	require.NoError(t, there.Pull(t.Context(), p.one, p.r.open, progress))
	require.Positive(t, progress.Total.Load())
	require.Equal(t, progress.Total.Load(), progress.Done.Load())
	require.NoError(t, there.Pull(t.Context(), p.two, p.r.open, nil))
	opens := p.r.opens
	require.NoError(t, there.Pull(t.Context(), p.two, p.r.open, nil))
	require.Equal(t, opens, p.r.opens, "of what is held nothing is fetched")
	there.back(p.two.ID, p.dir)
	there.reopen()
	there.back(p.two.ID, p.dir)
	require.NoError(t, there.Verify(t.Context(), p.two.ID))

	// It goes on here.
	write(t, filepath.Join(p.dir, "a/z"), "z")
	three := there.create(p.dir, p.two.ID)
	require.EqualValues(t, 1, three.New)
	there.back(three.ID, p.dir)
}

// Whatever a remote gives, it is refused or it is right, and nothing is left.
func TestPullTrustsNothing(t *testing.T) {
	for _, fewer := range []int{0, 2} {
		t.Run(fmt.Sprint(fewer, " entries in memory"), func(t *testing.T) { testPullTrustsNothing(t, fewer) })
	}
}

func testPullTrustsNothing(t *testing.T, fewer int) {
	p := newPushed(t)
	flip := func(d snapshot.Digest, at int) OpenBlobFunc {
		return func(ctx context.Context, blob snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			r, err := p.r.open(ctx, blob, off, n)
			if err != nil || blob != d {
				return r, err
			}
			b, err := io.ReadAll(r)
			b[len(b)*at/100] ^= 1
			return io.NopCloser(bytes.NewReader(b)), err
		}
	}
	in, err := p.b.Lookup(p.one.ID)
	require.NoError(t, err)
	pack := in.Blobs[0].Digest
	other := p.one
	other.Manifest = p.two.Manifest
	wrongKey := p.one
	wrongKey.DomainKey = []byte("another key of thirty-two bytes!")
	for name, c := range map[string]struct {
		spec ImportSpec
		open OpenBlobFunc
	}{
		"bit of a pack":    {p.one, flip(pack, 50)},
		"bit of the index": {p.one, flip(p.one.Index, 50)},
		"another manifest": {other, p.r.open},
		"a short pack": {p.one, func(ctx context.Context, blob snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			if blob == pack {
				n -= 10
			}
			return p.r.open(ctx, blob, off, n)
		}},
		"a long pack": {p.one, func(ctx context.Context, blob snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			r, err := p.r.open(ctx, blob, off, n)
			if blob == pack {
				r = io.NopCloser(io.MultiReader(r, bytes.NewReader(make([]byte, 1<<20))))
			}
			return r, err
		}},
		"broken connection": {p.one, func(ctx context.Context, blob snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			if blob == pack {
				return nil, errors.New("the network is gone")
			}
			return p.r.open(ctx, blob, off, n)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			there := newBench(t, view.NameCopy)
			there.fewer = fewer
			require.Error(t, there.Pull(t.Context(), c.spec, c.open, nil))
			require.Empty(t, there.List())
			for _, d := range []string{"packs", "indexes", "manifests", "tmp"} {
				left, err := os.ReadDir(filepath.Join(there.dir, d))
				require.NoError(t, err)
				require.Empty(t, left, d)
			}
			require.NoError(t, there.Pull(t.Context(), p.one, p.r.open, nil), "a good one can follow")
		})
	}
	t.Run("another key", func(t *testing.T) { // is found when chunks are read
		there := newBench(t, view.NameCopy)
		there.fewer = fewer
		require.NoError(t, there.Pull(t.Context(), wrongKey, p.r.open, nil))
		_, err := there.Restore(t.Context(), RestoreSpec{Snapshot: p.one.ID, Dir: filepath.Join(t.TempDir(), "r")})
		var corrupt *snapshot.CorruptError
		require.ErrorAs(t, err, &corrupt)
	})
}

// What is damaged here is found by a verify, and mended by a pull, without what
// stands on it.
func TestPullMends(t *testing.T) {
	p := newPushed(t)
	in, err := p.b.Lookup(p.one.ID)
	require.NoError(t, err)
	for name, path := range map[string]string{
		"pack":     p.b.packPath(in.Blobs[0].Digest),
		"index":    p.b.indexPath(in.Index),
		"manifest": p.b.manifestPath(in.Manifest),
	} {
		for how, spoil := range map[string]func(){
			"flipped": func() {
				raw, err := os.ReadFile(path)
				require.NoError(t, err)
				raw[len(raw)/2] ^= 4
				require.NoError(t, os.WriteFile(path, raw, 0o600))
			},
			"gone": func() { require.NoError(t, os.Remove(path)) },
		} {
			t.Run(name+" "+how, func(t *testing.T) {
				spoil()
				p.b.reopen()
				bad := map[snapshot.ID]bool{}
				require.NoError(t, p.b.VerifyAll(t.Context(), []snapshot.ID{p.two.ID}, nil, func(id snapshot.ID, err error) {
					bad[id] = err != nil
				}))
				require.Equal(t, map[snapshot.ID]bool{p.one.ID: true, p.two.ID: true}, bad)
				_, err := p.b.Restore(t.Context(), RestoreSpec{Snapshot: p.one.ID, Dir: filepath.Join(t.TempDir(), "r")})
				require.Error(t, err)
				for _, spec := range []ImportSpec{p.one, p.two} {
					require.NoError(t, p.b.Pull(t.Context(), spec, p.r.open, nil))
				}
				p.b.back(p.two.ID, p.dir)
				p.b.reopen()
				require.NoError(t, p.b.VerifyAll(t.Context(), []snapshot.ID{p.two.ID}, nil, func(id snapshot.ID, err error) {
					require.NoError(t, err, id)
				}))
			})
		}
	}
}

// What was unpacked as it came has no packs here. A snapshot on it that is only stored
// has the rest of its content in its base's files.
func TestPullOnUnpacked(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for _, fewer := range []int{0, 2} {
			t.Run(fmt.Sprint(fewer, " entries in memory"), func(t *testing.T) { testPullOnUnpacked(t, driver, fewer) })
		}
	})
}

func testPullOnUnpacked(t *testing.T, driver string, fewer int) {
	src, there := newBench(t, driver), newBench(t, driver)
	one := src.job(func(dir string) {
		write(t, dir+"/a", "a")
		write(t, dir+"/d/big", string(chaff(1, 3<<20)))
		require.NoError(t, os.Link(dir+"/a", dir+"/d/link"))
	})
	two := src.job(func(dir string) { write(t, dir+"/d/b", "b") }, one.ID)
	three := src.job(func(dir string) {
		write(t, dir+"/c", "c")
		require.NoError(t, os.Rename(dir+"/d/b", dir+"/moved"))
	}, two.ID)
	src.packed(one.ID, two.ID, three.ID)
	there.few, there.fewer = fewer, fewer
	r := newRemote(t)
	require.NoError(t, there.Import(t.Context(), r.upload(src, one.ID), r.open, nil))
	for _, in := range []Info{two, three} {
		require.NoError(t, there.Pull(t.Context(), r.upload(src, in.ID), r.open, nil))
		require.NoError(t, there.Verify(t.Context(), in.ID))
		there.reopen()
		want := filepath.Join(t.TempDir(), "want")
		_, err := src.Restore(t.Context(), RestoreSpec{Snapshot: in.ID, Dir: want})
		require.NoError(t, err)
		there.back(in.ID, want)
	}
	require.NoError(t, there.Materialise(t.Context(), three.ID, nil))
	require.NoError(t, there.Verify(t.Context(), three.ID))
	there.reopen()
	require.Equal(t, src.requireTree(three.ID), there.requireTree(three.ID))

	if driver == view.NameCopy { // its views are new files, which the next layer has changes of
		return
	}
	// What is wrong in those files is not taken.
	m, err := there.Tree(t.Context(), one.ID)
	require.NoError(t, err)
	e, ok := m.Find("a")
	require.True(t, ok)
	f, err := os.OpenFile(e.Source, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte("x"), e.SourceAt)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.ErrorIs(t, there.Materialise(t.Context(), two.ID, nil), snapshot.ErrNotFound)
}
