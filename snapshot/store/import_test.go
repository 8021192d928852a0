package store

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// history makes three layers: everything new, changed in many ways, and renamed.
func history(t testing.TB, b *bench) []snapshot.ID {
	t.Helper()
	noise := make([]byte, 5<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	one := b.job(func(dir string) {
		for _, d := range []string{"src", "src/deep/er", "gone"} {
			for _, f := range []string{"a", "b", "c"} {
				write(t, filepath.Join(dir, d, f), d+f)
			}
		}
		write(t, dir+"/noise", string(noise))
		write(t, dir+"/odd\xff\nname", "bytes")
		require.NoError(t, os.Link(dir+"/src/a", dir+"/gone/link"))
		require.NoError(t, os.Symlink("../nowhere", dir+"/src/soft"))
		f, err := os.Create(dir + "/sparse")
		require.NoError(t, err)
		_, err = f.WriteAt([]byte("end"), 10<<20)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	})
	two := b.job(func(dir string) {
		require.NoError(t, os.RemoveAll(dir+"/gone"))
		write(t, dir+"/gone", "a file now")
		require.NoError(t, os.Chmod(dir+"/src/b", 0o755))
		write(t, dir+"/src/c", "changed")
	}, one.ID)
	three := b.job(func(dir string) {
		require.NoError(t, os.Rename(dir+"/src/deep", dir+"/shallow"))
		require.NoError(t, os.Rename(dir+"/noise", dir+"/shallow/noise"))
	}, two.ID)
	return []snapshot.ID{one.ID, two.ID, three.ID}
}

func TestImport(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src := newBench(t, driver)
		ids := history(t, src)
		src.packed(ids...)
		r := newRemote(t)
		dst := newBench(t, driver)
		for _, id := range ids {
			spec := r.upload(src, id)
			var m view.Meter
			require.NoError(t, dst.Import(t.Context(), spec, r.open, &m))
			if id == ids[0] {
				require.GreaterOrEqual(t, m.Written(), int64(5<<20))
			} else if driver == view.NameOverlay {
				require.Less(t, m.Written(), int64(6<<20))
			}
			require.NoError(t, dst.Import(t.Context(), spec, nil, &m), "what is held is not fetched")
			want := src.requireTree(id)
			require.Equal(t, want, dst.requireTree(id))
			in, err := dst.Lookup(id)
			require.NoError(t, err)
			require.Equal(t, want, in.Manifest)
			require.Equal(t, Durable, in.State)
			require.NoError(t, dst.Verify(t.Context(), id))
		}
		// Life goes on at the other host, and back.
		dst.reopen()
		four := dst.job(func(dir string) {
			require.Equal(t, "changed", read(t, dir+"/src/c"))
			write(t, dir+"/src/d", "from afar")
		}, ids[2])
		dst.packed(four.ID)
		require.NoError(t, src.Import(t.Context(), r.upload(dst, four.ID), r.open, nil))
		require.Equal(t, dst.requireTree(four.ID), src.requireTree(four.ID))
	})
}

// The sources of a tree can be found again when their list is lost.
func TestLostSources(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, dst := newBench(t, driver), newBench(t, driver)
		ids := history(t, src)
		src.packed(ids...)
		r := newRemote(t)
		for _, id := range ids {
			require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
		}
		for _, b := range []*bench{src, dst} {
			b.crash()
			for i, id := range ids {
				path := b.dir + "/manifests/" + string(id) + ".src"
				if i == 0 {
					require.NoError(t, os.Remove(path))
				} else {
					require.NoError(t, os.WriteFile(path, []byte("junk"), 0o600))
				}
			}
			b.open()
			for _, id := range ids {
				b.requireTree(id)
			}
			require.NoError(t, b.Verify(t.Context(), ids[2]), "the list was written again")
		}
	})
}

func TestConcurrentImportsAreOne(t *testing.T) {
	driver := overlayOrCopy(t)
	src, dst := newBench(t, driver), newBench(t, driver)
	one := src.job(func(dir string) { write(t, dir+"/f", strings.Repeat("x", 100_000)) })
	src.packed(one.ID)
	r := newRemote(t)
	spec := r.upload(src, one.ID)

	// The first caller gives up in the middle; one of the others takes over.
	ctx, cancel := context.WithCancel(t.Context())
	entered, block := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		first <- dst.Import(ctx, spec, func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
			close(entered)
			<-block
			return nil, ctx.Err()
		}, nil)
	}()
	<-entered
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = dst.Import(t.Context(), spec, r.open, nil) })
	}
	cancel()
	close(block)
	require.ErrorIs(t, <-first, context.Canceled)
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.LessOrEqual(t, r.opens, 2, "one index, one pack")
	dst.requireTree(one.ID)
}

func TestImportRefuses(t *testing.T) {
	driver := overlayOrCopy(t)
	src := newBench(t, driver)
	ids := history(t, src)
	src.packed(ids...)
	good := newRemote(t)
	var specs []ImportSpec
	for _, id := range ids {
		specs = append(specs, good.upload(src, id))
	}
	packOf := func(i int) snapshot.Digest {
		in, err := src.Lookup(ids[i])
		require.NoError(t, err)
		return in.Blobs[0].Digest
	}
	for name, tc := range map[string]struct {
		break_ func(r *remote, spec *ImportSpec)
		also   func(t *testing.T, err error)
	}{
		"a bit in the index": {break_: func(r *remote, s *ImportSpec) { flip(r, s.Index, 200) }},
		"a bit in a pack":    {break_: func(r *remote, s *ImportSpec) { flip(r, packOf(0), 1000) }},
		"a pack cut off":     {break_: func(r *remote, s *ImportSpec) { r.blobs[packOf(0)] = r.blobs[packOf(0)][:5000] }},
		"an index cut off":   {break_: func(r *remote, s *ImportSpec) { r.blobs[s.Index] = r.blobs[s.Index][:100] }},
		"no pack":            {break_: func(r *remote, s *ImportSpec) { delete(r.blobs, packOf(0)) }},
		"another manifest":   {break_: func(r *remote, s *ImportSpec) { s.Manifest[0] ^= 1 }},
		"another key":        {break_: func(r *remote, s *ImportSpec) { s.DomainKey = []byte("not that one") }},
		"another's index":    {break_: func(r *remote, s *ImportSpec) { s.Index, s.IndexBytes = specs[1].Index, specs[1].IndexBytes }},
		"no size":            {break_: func(r *remote, s *ImportSpec) { s.IndexBytes = 0 }},
		"huge size":          {break_: func(r *remote, s *ImportSpec) { s.IndexBytes = 1 << 40 }},
		"a path for an id":   {break_: func(r *remote, s *ImportSpec) { s.ID = "../x" }},
		"no base": {
			break_: func(r *remote, s *ImportSpec) { *s = specs[1] },
			also:   func(t *testing.T, err error) { require.ErrorIs(t, err, snapshot.ErrNotFound) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			dst := newBench(t, driver)
			r := newRemote(t)
			for d, b := range good.blobs {
				r.blobs[d] = append([]byte(nil), b...)
			}
			spec := specs[0]
			tc.break_(r, &spec)
			err := dst.Import(t.Context(), spec, r.open, nil)
			require.Error(t, err)
			if tc.also != nil {
				tc.also(t, err)
			}
			require.Empty(t, dst.List())
			for _, d := range []string{"views", "indexes", "manifests", "packs", "tmp"} {
				entries, err := os.ReadDir(filepath.Join(dst.dir, d))
				require.NoError(t, err)
				require.Empty(t, entries, d)
			}
			require.NoError(t, dst.Import(t.Context(), specs[0], good.open, nil), "a good copy is taken afterwards")
		})
	}
}

func flip(r *remote, d snapshot.Digest, at int) { r.blobs[d][min(at, len(r.blobs[d])-1)] ^= 0x10 }

// A suspect copy is replaced by a good one, with all that stood on it.
func TestImportReplacesSuspects(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, dst := newBench(t, driver), newBench(t, driver)
		ids := history(t, src)
		src.packed(ids...)
		r := newRemote(t)
		for _, id := range ids {
			require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
		}
		m, err := dst.Tree(t.Context(), ids[0])
		require.NoError(t, err)
		e, ok := m.Find("src/c")
		require.True(t, ok)
		overwrite(t, e, "srcC") // same length

		var corrupt *snapshot.CorruptError
		require.ErrorAs(t, dst.Verify(t.Context(), ids[0]), &corrupt)
		require.Equal(t, "src/c", corrupt.Name)
		for _, in := range dst.List() {
			require.Equal(t, Suspect, in.State)
		}
		for _, id := range ids {
			require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
			require.NoError(t, dst.Verify(t.Context(), id))
		}
		require.Equal(t, src.requireTree(ids[2]), dst.requireTree(ids[2]))
	})
}

// overwrite damages what a layer has of e.
func overwrite(t testing.TB, e *snapshot.Entry, text string) {
	t.Helper()
	fi, err := os.Stat(e.Source)
	require.NoError(t, err)
	f, err := os.OpenFile(e.Source, os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte(text), e.SourceAt)
	require.NoError(t, errors.Join(err, f.Close()))
	require.NoError(t, os.Chtimes(e.Source, fi.ModTime(), fi.ModTime()))
}

// A bundle that lost its end is found before a job could read what is not there.
func TestShortBundle(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	src, dst := newBench(t, view.NameErofs), newBench(t, view.NameErofs)
	src.run()
	ids := history(t, src)
	src.packed(ids...)
	r := newRemote(t)
	for _, id := range ids {
		require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
	}
	m, err := dst.Tree(t.Context(), ids[0])
	require.NoError(t, err)
	e, ok := m.Find("src/c")
	require.True(t, ok)
	require.Positive(t, e.SourceAt)
	require.NoError(t, os.Truncate(e.Source, 512))
	_, err = dst.Prepare(t.Context(), dst.spec(ids[2]))
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, err, &corrupt)
	for _, id := range ids {
		in, err := dst.Lookup(id)
		require.NoError(t, err)
		require.Equal(t, Suspect, in.State, "all that stands on the bundle")
	}
	for _, id := range ids {
		require.NoError(t, dst.Import(t.Context(), r.upload(src, id), r.open, nil))
	}
	require.Equal(t, src.requireTree(ids[2]), dst.requireTree(ids[2]))
}

func TestVerifyFindsDamage(t *testing.T) {
	for name, file := range map[string]func(in Info) string{
		"index":    func(in Info) string { return "indexes/" + in.Index.String() },
		"manifest": func(in Info) string { return "manifests/" + in.Manifest.String() },
		"pack":     func(in Info) string { return "packs/" + in.Blobs[0].Digest.String() },
		"sources":  func(in Info) string { return "manifests/" + string(in.ID) + ".src" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, overlayOrCopy(t))
			one := b.job(func(dir string) { write(t, dir+"/f", strings.Repeat("x", 5000)) })
			require.ErrorIs(t, b.Verify(t.Context(), one.ID), ErrNotPacked)
			in := b.packed(one.ID)[0]
			require.NoError(t, b.Verify(t.Context(), one.ID))
			path := filepath.Join(b.dir, file(in))
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			data[len(data)/2] ^= 1
			require.NoError(t, os.WriteFile(path, data, 0o600))
			require.Error(t, b.Verify(t.Context(), one.ID))
			got, err := b.Lookup(one.ID)
			require.NoError(t, err)
			require.Equal(t, Suspect, got.State)
			b.reopen()
			got, err = b.Lookup(one.ID)
			require.NoError(t, err)
			require.Equal(t, Suspect, got.State)
		})
	}
}
