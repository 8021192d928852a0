package store

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// TestViewOutlives: a view whose job outlives the process is in its place in the next
// one, with what the job wrote before and after, and can be sealed.
func TestViewOutlives(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for name, inputs := range map[string]func(b *bench) []snapshot.ID{
			"empty": func(*bench) []snapshot.ID { return nil },
			"a base": func(b *bench) []snapshot.ID {
				return []snapshot.ID{b.job(func(d string) { write(t, d+"/base", "x") }).ID}
			},
			"a merge": func(b *bench) []snapshot.ID {
				base := b.job(func(d string) { write(t, d+"/base", "x") }).ID
				return []snapshot.ID{
					b.job(func(d string) { write(t, d+"/l", "l") }, base).ID,
					b.job(func(d string) { write(t, d+"/r", "r") }, base).ID,
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t, driver)
				ids := inputs(b)
				p := b.spec(ids...)
				p.Outlives, p.Claim = true, []byte("mine")
				a, err := b.Prepare(t.Context(), p)
				require.NoError(t, err)
				write(t, a.Target+"/before", "1")
				b.reopen()
				require.Equal(t, []OpenView{{ID: p.ID, Claim: p.Claim, InPlace: true}}, openOnly(b.Views()))
				write(t, a.Target+"/after", "2")
				b.reopen()
				in, err := b.Seal(t.Context(), p.ID, []byte("outcome"))
				require.NoError(t, err)
				require.Equal(t, Sealed, in.State, in.Err)
				require.ElementsMatch(t, ids, in.Parents)
				m, err := b.Tree(t.Context(), p.ID)
				require.NoError(t, err)
				for _, n := range []string{"before", "after"} {
					_, ok := m.Find(n)
					require.True(t, ok, n)
				}
				require.NoFileExists(t, b.openPath(p.ID))
				b.reopen()
				require.Equal(t, []OpenView{{ID: p.ID, Claim: p.Claim, Sealed: true, Outcome: []byte("outcome")}}, b.sealedOnly(p.ID))
				b.requireTree(p.ID)
			})
		}
	})
}

func (b *bench) sealedOnly(id snapshot.ID) []OpenView {
	var out []OpenView
	for _, v := range b.Views() {
		if v.ID == id {
			out = append(out, v)
		}
	}
	return out
}

// TestViewOutlivesNot: after the machine's restart, a damaged file, or a view that
// somebody took away, there is a view to be discarded as ever.
func TestViewOutlivesNot(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		for name, harm := range map[string]func(b *bench, id snapshot.ID, target string){
			"restarted": func(b *bench, _ snapshot.ID, _ string) { b.o.BootID = "boot-2" },
			"torn file": func(b *bench, id snapshot.ID, _ string) {
				require.NoError(t, os.Truncate(b.openPath(id), 20))
			},
			"no file": func(b *bench, id snapshot.ID, _ string) { require.NoError(t, os.Remove(b.openPath(id))) },
			"gone": func(b *bench, id snapshot.ID, target string) {
				b.mu.Lock()
				v := b.views[id].v
				b.mu.Unlock()
				require.NoError(t, b.Store.driver.Seal(t.Context(), v))
				if driver == view.NameCopy {
					require.NoDirExists(t, target)
				}
			},
		} {
			t.Run(name, func(t *testing.T) {
				b := newBench(t, driver)
				p := b.spec()
				p.Outlives = true
				a, err := b.Prepare(t.Context(), p)
				require.NoError(t, err)
				harm(b, p.ID, a.Target)
				b.reopen()
				require.Equal(t, []OpenView{{ID: p.ID, Claim: p.Claim}}, openOnly(b.Views()))
				_, err = b.Seal(t.Context(), p.ID, nil)
				require.Error(t, err)
				require.NoError(t, b.Discard(t.Context(), p.ID))
				requireNoMounts(t, p.Target)
				left, err := os.ReadDir(filepath.Join(b.dir, openDir))
				require.NoError(t, err)
				require.Empty(t, left)
			})
		}
	})
}

// TestDeathInSealOfOutliving: killed after the unmount and before the row, the view is
// sealed by the next process.
func TestDeathInSealOfOutliving(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		p := b.spec()
		p.Outlives = true
		a, err := b.Prepare(t.Context(), p)
		require.NoError(t, err)
		write(t, a.Target+"/f", "1")
		b.mu.Lock()
		v := b.views[p.ID]
		b.mu.Unlock()
		b.noteSealing(v, true)
		require.NoError(t, b.Store.driver.Seal(t.Context(), v.v))
		b.reopen()
		in, err := b.Seal(t.Context(), p.ID, nil)
		require.NoError(t, err)
		require.Equal(t, Sealed, in.State, in.Err)
		b.requireTree(p.ID)
	})
}
