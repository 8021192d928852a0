package store

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// behindSeal runs the background work until a layer is packed and stands on an image.
func (b *bench) behindSeal(id snapshot.ID) {
	b.t.Helper()
	b.run()
	defer func() { b.stop(); b.stop = nil }()
	_, err := b.Packed(ctxOf(b.t), id)
	require.NoError(b.t, err)
	for {
		b.mu.Lock()
		l, changed := b.layers[id], b.changed
		b.mu.Unlock()
		if !stacked(l.place()) {
			return
		}
		select {
		case <-changed:
		case <-time.After(tick):
		}
	}
}

// residentPeak is the most that this process had in memory since the last call, bytes.
func residentPeak(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, rest, ok := bytes.Cut(status, []byte("VmHWM:"))
	require.True(t, ok)
	n, err := strconv.ParseInt(string(bytes.Fields(rest)[0]), 10, 64)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile("/proc/self/clear_refs", []byte("5"), 0))
	return n << 10
}

// cpuSeconds is how long processors worked for this process.
func cpuSeconds(t *testing.T) float64 {
	t.Helper()
	var u unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// veryLarge is a store for a tree of TEST_MEMORY_ENTRIES files, of which nothing is
// gathered by itself.
func veryLarge(t *testing.T) (b *bench, entries int) {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("TEST_MEMORY_ENTRIES"))
	if err != nil {
		t.Skip("TEST_MEMORY_ENTRIES says how many files; it takes minutes")
	}
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	b = newBench(t, view.NameErofs)
	b.gathering.least = 1 << 40
	return b, n
}

// What an agent needs of memory behind a job that made very many files, at full size:
// TEST_MEMORY_ENTRIES=2000000. It says how much, as the system sees it.
func TestMemoryOfLargeLayer(t *testing.T) {
	b, n := veryLarge(t)
	last := cpuSeconds(t)
	said := func(what string) {
		now := cpuSeconds(t)
		t.Logf("%d: %s: %d MB resident at most, %.2f s of CPU time", n, what, residentPeak(t)>>20, now-last)
		last = now
	}
	p := b.spec()
	a, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	bushes(t, a.Target, n)
	said("the job")
	one, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	said("seal")
	b.behindSeal(one.ID)
	said("image and pack")
	two := b.job(func(dir string) {
		for i := range 100 {
			write(t, filepath.Join(dir, "new", strconv.Itoa(i)), fmt.Sprint("new ", i))
		}
	}, one.ID)
	said("a second job")
	b.behindSeal(two.ID)
	said("its image and pack")
}

// What is behind a job grows with the entries of its tree by no more than this for each,
// be they the job's or its base's.
func TestMemoryPerEntryOfLayer(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	most := map[string]float64{
		"seal": 10, "first image": 230, "first pack": 190, "second image": 230, "second pack": 140,
		"renamed image": 250, "renamed pack": 450,
	}
	memorySlopes(t, 10_000, 30_000, most, func(n int, note func(what string, fn func())) {
		b := newBench(t, view.NameErofs)
		b.close()
		b.o.CacheEntries = 100
		b.o.Driver = func(r string) (view.Driver, error) {
			return view.Open(view.NameErofs, r, view.Options{Owners: true, ScratchFrom: 1, FarMost: 100})
		}
		b.open()
		b.fewer = 512
		behind := func(what string, id snapshot.ID) {
			l := b.layers[id]
			note(what+" image", func() { require.NoError(t, b.image(t.Context(), l)) })
			b.sync(t.Context(), l)
			note(what+" pack", func() { require.NoError(t, b.pack(t.Context(), l)) })
		}
		p := b.spec()
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		bushes(t, a.Target, n)
		var one Info
		note("seal", func() {
			one, err = b.Seal(t.Context(), p.ID, nil)
			require.NoError(t, err)
		})
		behind("first", one.ID)
		two := b.job(func(dir string) { write(t, filepath.Join(dir, "one more"), "x") }, one.ID)
		behind("second", two.ID)
		three := b.job(func(dir string) { require.NoError(t, os.Rename(dir+"/packages", dir+"/elsewhere")) }, two.ID)
		behind("renamed", three.ID)
	})
}

// What an agent needs of memory to merge, at full size: TEST_MEMORY_ENTRIES=1000000 are
// the files of each parent, of which first few differ, then all.
func TestMemoryOfLargeMerge(t *testing.T) {
	b, n := veryLarge(t)
	last := cpuSeconds(t)
	said := func(what string) {
		now := cpuSeconds(t)
		t.Logf("%d: %s: %d MB resident at most, %.2f s of CPU time", n, what, residentPeak(t)>>20, now-last)
		last = now
	}
	job := func(what string, f func(dir string), on ...snapshot.ID) snapshot.ID {
		p := b.spec(on...)
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		said(what + ", prepared")
		f(a.Target)
		in, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)
		said(what + ", sealed")
		return in.ID
	}
	one := job("a job", func(dir string) { bushes(t, dir, n) })
	b.behindSeal(one)
	said("its image and pack")
	left := job("left", func(dir string) { write(t, dir+"/left", "1") }, one)
	right := job("right", func(dir string) { write(t, dir+"/right", "2") }, one)
	both := job("a merge of them", func(dir string) { write(t, dir+"/both", "3") }, left, right)
	b.behindSeal(both)
	said("its image and pack")
	other := job("another job on nothing", func(dir string) { bushes(t, dir+"/other", n) })
	b.behindSeal(other)
	said("its image and pack")
	all := job("a merge with that", func(dir string) { write(t, dir+"/all", "4") }, both, other)
	b.behindSeal(all)
	said("its image and pack")
}
