package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// Slots that work side by side, with the background work, removals and another
// host's imports beside them: at the end every snapshot is what its job saw.
func TestManyAtOnce(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b, dst := newBench(t, driver), newBench(t, driver)
		b.run()
		dst.run()
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		var mu sync.Mutex // guards sealed and saw
		var sealed []snapshot.ID
		saw := map[snapshot.ID]snapshot.Digest{}
		var wg sync.WaitGroup
		for slot := range 4 {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(seed, uint64(slot)))
				for n := range 8 {
					mu.Lock()
					var parents []snapshot.ID
					for range rng.IntN(3) {
						if len(sealed) > 0 {
							parents = append(parents, sealed[rng.IntN(len(sealed))])
						}
					}
					p := b.spec(parents...)
					mu.Unlock()
					p.Order = true
					a, err := b.Prepare(t.Context(), p)
					if errors.Is(err, snapshot.ErrNotFound) {
						continue // removed meanwhile
					}
					if !noError(t, err) {
						return
					}
					for i := range 5 {
						os.MkdirAll(filepath.Join(a.Target, fmt.Sprint(rng.IntN(3))), 0o755) // a file may be there
						os.WriteFile(filepath.Join(a.Target, fmt.Sprint(rng.IntN(3)), fmt.Sprint(i)), []byte{byte(n)}, 0o644)
					}
					if rng.IntN(4) == 0 {
						noError(t, b.Discard(t.Context(), p.ID))
						continue
					}
					want := digestOf(t, scanHashed(t, a.Target))
					if _, err := b.Seal(t.Context(), p.ID, nil); !noError(t, err) {
						return
					}
					noError(t, b.Reported(t.Context(), p.ID))
					if rng.IntN(5) == 0 {
						err := b.Drop(t.Context(), p.ID)
						if err == nil {
							continue
						}
						if !errors.Is(err, snapshot.ErrBusy) {
							noError(t, err)
						}
					}
					mu.Lock()
					sealed, saw[p.ID] = append(sealed, p.ID), want
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		r := newRemote(t)
		for _, in := range b.List() { // a base comes before what stands on it
			b.packed(in.ID)
			require.NoError(t, dst.Import(t.Context(), r.upload(b, in.ID), r.open, nil))
			require.NoError(t, b.MarkDurable(t.Context(), in.ID))
			require.Equal(t, saw[in.ID], b.requireTree(in.ID))
			require.Equal(t, saw[in.ID], dst.requireTree(in.ID))
			require.NoError(t, b.Verify(t.Context(), in.ID))
			require.NoError(t, dst.Verify(t.Context(), in.ID))
		}
		b.reopen()
		list := b.List()
		for i := len(list) - 1; i >= 0; i-- {
			b.requireTree(list[i].ID)
			require.NoError(t, b.Remove(t.Context(), list[i].ID))
		}
		for _, d := range []string{"views", "indexes", "manifests"} {
			entries, err := os.ReadDir(filepath.Join(b.dir, d))
			require.NoError(t, err)
			require.Empty(t, entries, d)
		}
	})
}

// noError reports an error without ending the goroutine of another's test.
func noError(t *testing.T, err error) bool {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
	return err == nil
}
