package store

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// flipFile changes one bit of a file and leaves its looks.
func flipFile(t testing.TB, path string, at int64) {
	t.Helper()
	fi, err := os.Stat(path)
	require.NoError(t, err)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	b := make([]byte, 1)
	at = min(at, fi.Size()-1)
	_, err = f.ReadAt(b, at)
	require.NoError(t, err)
	b[0] ^= 0x10
	_, err = f.WriteAt(b, at)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	require.NoError(t, os.Chtimes(path, fi.ModTime(), fi.ModTime()))
}

// sourceOf is where a file of a snapshot lies.
func (b *bench) sourceOf(id snapshot.ID, path string) string {
	b.t.Helper()
	m, err := b.Tree(ctxOf(b.t), id)
	require.NoError(b.t, err)
	e, ok := m.Find(path)
	require.True(b.t, ok)
	return e.Source
}

func (r *remote) size(_ context.Context, d snapshot.Digest) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := r.blobs[d]
	if !ok {
		return 0, snapshot.ErrNotFound
	}
	return int64(len(b)), nil
}

// states lists what all layers are.
func (b *bench) states() []State {
	var out []State
	for _, in := range b.List() {
		out = append(out, in.State)
	}
	return out
}

// A flipped bit in every kind of file is found, and repaired from whatever copy there
// is; afterwards everything is as before.
func TestScrubRepairs(t *testing.T) {
	t.Parallel()
	cases := []struct {
		damage  func(b *bench, in Info)
		what    string
		from    string // before it is durable: nothing but this host
		durable string // afterwards: with a blob store
	}{
		{func(b *bench, in Info) { flipFile(b.t, b.indexPath(in.Index), 100) }, "index", fromFiles, fromBlobStore},
		{func(b *bench, in Info) { require.NoError(b.t, os.Remove(b.indexPath(in.Index))) }, "index", fromFiles, fromBlobStore},
		{func(b *bench, in Info) { flipFile(b.t, b.manifestPath(in.Manifest), 100) }, "manifest", fromIndex, fromIndex},
		{func(b *bench, in Info) { flipFile(b.t, b.srcPath(in.ID), 30) }, "sources", fromFiles, fromFiles},
		{func(b *bench, in Info) { flipFile(b.t, b.packPath(in.Blobs[0].Digest), 1000) }, "pack", fromFiles, ""},
		{func(b *bench, in Info) { require.NoError(b.t, os.Remove(b.packPath(in.Blobs[0].Digest))) }, "pack", fromFiles, ""},
		{func(b *bench, in Info) { flipFile(b.t, b.sourceOf(in.ID, "src/c"), 1) }, "content", fromPacks, fromBlobStore},
		{func(b *bench, in Info) {
			flipFile(b.t, b.sourceOf(in.ID, "noise"), 3<<20)
			flipFile(b.t, b.sourceOf(in.ID, "noise"), 10)
		}, "content", fromPacks, fromBlobStore},
		{func(b *bench, in Info) { flipFile(b.t, b.sourceOf(in.ID, "sparse"), 5<<20) }, "content", fromPacks, fromPacks}, // a hole
		{func(b *bench, in Info) { flipFile(b.t, b.sourceOf(in.ID, "src/a"), 0) }, "content", fromPacks, fromBlobStore},  // two names
	}
	repairs := func(t *testing.T, driver string, few int) {
		b := newBench(t, driver)
		ids := history(t, b)
		r := newRemote(t)
		b.packed(ids...)
		b.few = few
		var want []snapshot.Digest
		for _, id := range ids {
			r.upload(b, id)
			want = append(want, b.requireTree(id))
		}
		check := func(o ScrubOptions, damage func(*bench, Info), what, from string) {
			t.Helper()
			before := b.states()
			in, err := b.Lookup(ids[0])
			require.NoError(t, err)
			damage(b, in)
			b.reopen() // nothing of it is in memory
			blind := o
			blind.NoRepair = true
			got, err := b.Scrub(t.Context(), blind)
			require.NoError(t, err)
			require.NotEmpty(t, got.Damages)
			require.Equal(t, what, got.Damages[0].What)
			require.Positive(t, got.Left())
			require.Contains(t, b.states(), Suspect, "not to be used")
			b.reopen()
			got, err = b.Scrub(t.Context(), o)
			require.NoError(t, err)
			require.Zero(t, got.Left(), "%+v", got.Damages)
			require.Equal(t, from, got.Damages[0].From)
			require.Empty(t, got.Suspect)
			require.Equal(t, before, b.states(), "all are what they were")
			got, err = b.Scrub(t.Context(), o)
			require.NoError(t, err)
			require.Empty(t, got.Damages)
			require.NoError(t, b.Verify(t.Context(), ids[0]))
			for i, id := range ids {
				require.Equal(t, want[i], b.requireTree(id))
			}
		}
		for _, tc := range cases {
			check(ScrubOptions{}, tc.damage, tc.what, tc.from)
		}
		for _, id := range ids {
			require.NoError(t, b.MarkDurable(t.Context(), id))
		}
		b.reopen()
		for _, tc := range cases {
			if tc.durable != "" {
				check(ScrubOptions{Open: r.open, Size: r.size}, tc.damage, tc.what, tc.durable)
			}
		}
	}
	drivers(t, func(t *testing.T, driver string) {
		t.Run("as lists", func(t *testing.T) { repairs(t, driver, 0) })
		if driver == view.NameErofs { // which looks at large ones without
			t.Run("in parts", func(t *testing.T) { repairs(t, driver, 3) })
		}
	})
}

// The same for what came from another host, which lies in other files.
func TestScrubRepairsImported(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		src, b := newBench(t, driver), newBench(t, driver)
		ids := history(t, src)
		src.packed(ids...)
		r := newRemote(t)
		var want []snapshot.Digest
		for _, id := range ids {
			require.NoError(t, b.Import(t.Context(), r.upload(src, id), r.open, nil))
			want = append(want, b.requireTree(id))
		}
		content := func(path string, at int64) func(Info) {
			return func(Info) {
				m, err := b.Tree(t.Context(), ids[0])
				require.NoError(t, err)
				e, ok := m.Find(path)
				require.True(t, ok)
				flipFile(t, e.Source, e.SourceAt+at)
			}
		}
		for _, tc := range []struct {
			what, from string
			damage     func(Info)
		}{
			{"index", fromBlobStore, func(in Info) { flipFile(t, b.indexPath(in.Index), 99) }},
			{"manifest", fromIndex, func(in Info) { flipFile(t, b.manifestPath(in.Manifest), 99) }},
			{"sources", fromFiles, func(in Info) { flipFile(t, b.srcPath(in.ID), 44) }},
			{"content", fromBlobStore, content("src/c", 1)},
			{"content", fromBlobStore, content("noise", 4<<20)},
			{"content", fromBlobStore, content("sparse", 10<<20)},
			{"image", fromManifest, func(in Info) {
				// Somewhere in the names of a directory.
				path := filepath.Join(b.dir, b.layers[in.ID].place().Image)
				data, err := os.ReadFile(path)
				require.NoError(t, err)
				at := strings.Index(string(data), "shallow")
				if at < 0 {
					at = strings.Index(string(data), "sparse")
				}
				require.Positive(t, at)
				flipFile(t, path, int64(at))
			}},
		} {
			in, err := b.Lookup(ids[0])
			require.NoError(t, err)
			if tc.what == "image" && b.layers[in.ID].place().Image == "" {
				continue
			}
			tc.damage(in)
			b.reopen()
			got, err := b.Scrub(t.Context(), ScrubOptions{Open: r.open, Size: r.size})
			require.NoError(t, err)
			require.Len(t, got.Damages, 1, tc.what)
			require.Zero(t, got.Left(), "%+v", got.Damages)
			require.Equal(t, tc.what, got.Damages[0].What)
			require.Equal(t, tc.from, got.Damages[0].From, tc.what)
			require.Equal(t, []State{Durable, Durable, Durable}, b.states())
			for i, id := range ids {
				require.Equal(t, want[i], b.requireTree(id), tc.what)
				require.NoError(t, b.Verify(t.Context(), id))
			}
		}
		// What it has can be offered again: the blob store lost all packs.
		for _, id := range ids {
			in, err := b.Lookup(id)
			require.NoError(t, err)
			if id == ids[0] {
				require.Len(t, in.Blobs, 1, "the index alone is here")
			}
			for _, p := range b.layers[id].packs {
				if !p.Own {
					continue
				}
				in, err := b.Reoffer(t.Context(), p.Digest)
				require.NoError(t, err)
				require.Equal(t, id, in.ID)
				f, n, err := b.OpenBlob(t.Context(), p.Digest)
				require.NoError(t, err)
				require.Equal(t, p.Bytes, n)
				again, err := io.ReadAll(f)
				require.NoError(t, err)
				require.NoError(t, f.Close())
				require.Equal(t, r.blobs[p.Digest], again)
			}
			require.NoError(t, b.MarkDurable(t.Context(), id))
			_, err = b.Reoffer(t.Context(), in.Index)
			require.NoError(t, err)
		}
		_, err := b.Reoffer(t.Context(), snapshot.Digest{1})
		require.ErrorIs(t, err, snapshot.ErrNotFound)
		b.dropStale()
		requireEmptyDir(t, filepath.Join(b.dir, "packs"))
	})
}

// What no copy can repair is named and stays suspect, with all that stands on it; a
// good copy later brings it all back.
func TestScrubWithoutCopy(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	ids := history(t, b)
	b.packed(ids...)
	r := newRemote(t)
	for _, id := range ids {
		r.upload(b, id)
		require.NoError(t, b.MarkDurable(t.Context(), id))
	}
	b.dropStale() // as Run does
	sealed := b.job(func(dir string) { write(t, dir+"/more", "x") }, ids[2])
	running, ended := b.spec(ids[2]), b.spec(ids[2])
	_, err := b.Prepare(t.Context(), running)
	require.NoError(t, err)
	_, err = b.Prepare(t.Context(), ended)
	require.NoError(t, err)
	flipFile(t, b.sourceOf(ids[0], "noise"), 77)
	got, err := b.Scrub(t.Context(), ScrubOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, got.Left())
	require.Equal(t, "noise", got.Damages[0].Name)
	require.Contains(t, got.Damages[0].Left, errNoCopy.Error())
	require.Equal(t, []State{Suspect, Suspect, Suspect, Suspect}, b.states())
	require.Equal(t, 1, got.Unpacked)
	in, err := b.Seal(t.Context(), ended.ID, nil) // while what it stands on is suspect
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State)

	got, err = b.Scrub(t.Context(), ScrubOptions{Open: r.open})
	require.NoError(t, err)
	require.Zero(t, got.Left())
	require.Equal(t, []State{Durable, Durable, Durable, Sealed, Suspect}, b.states())
	require.ElementsMatch(t, append([]snapshot.ID{sealed.ID}, ids...), got.Restored)
	b.packed(sealed.ID)

	// The job that ran on it meanwhile may have read the wrong bytes.
	in, err = b.Seal(t.Context(), running.ID, nil)
	require.NoError(t, err)
	require.Equal(t, Suspect, in.State)
	require.Contains(t, in.Err, "damaged")
	got, err = b.Scrub(t.Context(), ScrubOptions{Open: r.open})
	require.NoError(t, err)
	require.ElementsMatch(t, []snapshot.ID{running.ID, ended.ID}, got.Suspect, "nothing says that it is right")
}

// Names and modes are compared, too.
func TestScrubNamesWhatItCantRepair(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"mode": func(t *testing.T, path string) { require.NoError(t, os.Chmod(path, 0o600)) },
		"time": func(t *testing.T, path string) { require.NoError(t, os.Chtimes(path, time.Time{}, time.Unix(1, 0))) },
		"gone": func(t *testing.T, path string) { require.NoError(t, os.Remove(path)) },
		"size": func(t *testing.T, path string) { require.NoError(t, os.Truncate(path, 2)) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, overlayOrCopy(t))
			one := b.job(func(dir string) { write(t, dir+"/f", "some content") })
			b.packed(one.ID)
			damage(t, b.sourceOf(one.ID, "f"))
			got, err := b.Scrub(t.Context(), ScrubOptions{})
			require.NoError(t, err)
			require.Positive(t, got.Left())
			require.Equal(t, "names", got.Damages[0].What)
			require.Equal(t, []State{Suspect}, b.states())
		})
	}
}

// A lying blob store makes nothing worse.
func TestScrubTrustsNobody(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) { write(t, dir+"/f", strings.Repeat("some content ", 1000)) })
	in := b.packed(one.ID)[0]
	r := newRemote(t)
	r.upload(b, one.ID)
	require.NoError(t, b.MarkDurable(t.Context(), one.ID))
	b.reopen()
	for _, bl := range in.Blobs {
		r.blobs[bl.Digest][len(r.blobs[bl.Digest])/2] ^= 1
	}
	flipFile(t, b.indexPath(in.Index), 50)
	got, err := b.Scrub(t.Context(), ScrubOptions{Open: r.open})
	require.NoError(t, err)
	require.Zero(t, got.Left(), "from its files")
	flipFile(t, b.sourceOf(one.ID, "f"), 50)
	got, err = b.Scrub(t.Context(), ScrubOptions{Open: r.open})
	require.NoError(t, err)
	require.Equal(t, 1, got.Left())
	require.Contains(t, got.Damages[0].Left, "digest")
}

// The rate holds over time, and a scrub that is cut short goes on where it was.
func TestScrubRateAndResume(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	var ids []snapshot.ID
	for range 3 {
		noise := make([]byte, 1<<20)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		ids = append(ids, b.job(func(dir string) { write(t, dir+"/f", string(noise)) }).ID)
	}
	b.packed(ids...)
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	_, err := b.Scrub(ctx, ScrubOptions{Rate: 8 << 20, Progress: func(p ScrubProgress) {
		if p.Done == 2 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.GreaterOrEqual(t, time.Since(began), 400*time.Millisecond, "4 MiB at 8 MiB/s")
	b.reopen()
	got, err := b.Scrub(t.Context(), ScrubOptions{Before: began})
	require.NoError(t, err)
	require.Equal(t, 1, got.Layers)
	got, err = b.Scrub(t.Context(), ScrubOptions{Before: began})
	require.NoError(t, err)
	require.Zero(t, got.Layers)
}

// Every bit of a small layer's stored files: each is found.
func TestScrubFindsEveryBit(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	one := b.job(func(dir string) {
		write(t, dir+"/f", "some content")
		require.NoError(t, os.Chtimes(dir+"/f", time.Unix(1e9, 0), time.Unix(1e9, 0)))
	})
	b.packed(one.ID)
	in, err := b.Lookup(one.ID)
	require.NoError(t, err)
	files := []string{b.indexPath(in.Index), b.manifestPath(in.Manifest), b.srcPath(one.ID), b.packPath(in.Blobs[0].Digest), b.sourceOf(one.ID, "f")}
	for _, path := range files {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		fi, err := os.Stat(path)
		require.NoError(t, err)
		step := 1 + len(data)/25
		if testing.Short() {
			step = 1 + len(data)/5
		}
		for at := 0; at < len(data); at += step {
			flipFile(t, path, int64(at))
			got, err := b.Scrub(t.Context(), ScrubOptions{})
			require.NoError(t, err)
			require.Len(t, got.Damages, 1, "%s at %d", path, at)
			require.Zero(t, got.Left(), "%s at %d: %+v", path, at, got.Damages)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, data, after)
			now, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, fi.Mode(), now.Mode())
		}
	}
	requireEmptyDir(t, filepath.Join(b.dir, "tmp"))
}

func requireEmptyDir(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
		require.Empty(t, entries, dir)
	}
}

// What a row names and is not there makes its layer suspect at Open, before anybody
// stands on it; what can be made again is.
func TestOpenMissesFiles(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		ids := history(t, b)
		b.packed(ids...)
		in, err := b.Lookup(ids[1])
		require.NoError(t, err)
		require.NoError(t, os.Remove(b.manifestPath(in.Manifest)))
		b.reopen()
		require.Equal(t, []State{Packed, Suspect, Suspect}, b.states())
		got, err := b.Scrub(t.Context(), ScrubOptions{})
		require.NoError(t, err)
		require.Zero(t, got.Left())
		require.Equal(t, []State{Packed, Packed, Packed}, b.states())
		require.NoError(t, os.Rename(filepath.Join(b.dir, "views", string(ids[0])), filepath.Join(t.TempDir(), "away")))
		b.reopen()
		require.Equal(t, []State{Suspect, Suspect, Suspect}, b.states())
		_, err = b.Prepare(t.Context(), b.spec(ids[2]))
		require.ErrorIs(t, err, snapshot.ErrNotFound)
	})
}

// Damaged files are kept for people, for a while.
func TestBadIsSwept(t *testing.T) {
	now := time.Now()
	b := newBench(t, overlayOrCopy(t))
	b.o.Now = func() time.Time { return now }
	b.reopen()
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	in := b.packed(one.ID)[0]
	flipFile(t, b.indexPath(in.Index), 9)
	_, err := b.Scrub(t.Context(), ScrubOptions{})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(b.dir, "bad", "indexes-"+in.Index.String()))
	b.reopen()
	require.FileExists(t, filepath.Join(b.dir, "bad", "indexes-"+in.Index.String()))
	now = now.Add(8 * 24 * time.Hour)
	b.reopen()
	requireEmptyDir(t, filepath.Join(b.dir, "bad"))
	require.Equal(t, []State{Packed}, b.states())
}
