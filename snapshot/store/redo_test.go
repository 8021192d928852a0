package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// powerCut ends the store, when all rows are durable, and takes from SQLite all that
// it had not synced: left of the WAL, of which nothing is ever synced by a commit, are
// its first bytes.
func (b *bench) powerCut(left int64) {
	b.t.Helper()
	require.NoError(b.t, b.record(b.redo, allOfIt))
	b.powerCutNow(left, func() {})
}

// powerCutNow is powerCut while the disk does nothing: what waits for it is not durable.
// back is called behind the cut.
func (b *bench) powerCutNow(left int64, back func()) {
	b.t.Helper()
	disk := map[string][]byte{}
	for _, name := range []string{"store.db", "store.db-wal", "redo"} {
		data, err := os.ReadFile(filepath.Join(b.dir, name))
		require.NoError(b.t, err)
		disk[name] = data
	}
	back()
	b.crash()
	disk["store.db-wal"] = disk["store.db-wal"][:min(left, int64(len(disk["store.db-wal"])))]
	for name, data := range disk {
		require.NoError(b.t, os.WriteFile(filepath.Join(b.dir, name), data, 0o600))
	}
	b.open()
}

// slowDisk makes whatever waits for the redo log wait until back is called.
func (b *bench) slowDisk() (back func()) {
	r := b.redo
	r.writing.Lock()
	return r.writing.Unlock
}

// recorded is where the redo log ends when all is in it.
func (b *bench) recorded() int64 {
	b.t.Helper()
	require.NoError(b.t, b.record(b.redo, allOfIt))
	b.redo.writing.Lock()
	defer b.redo.writing.Unlock()
	return b.redo.at
}

// What was acknowledged is there although SQLite lost it, wherever its log ends.
func TestRedoAfterPowerCut(t *testing.T) {
	for _, left := range []int64{0, 32, 5000, 1 << 40} {
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			one := b.job(func(dir string) { write(t, dir+"/f", "x") })
			two := b.job(func(dir string) { write(t, dir+"/g", "y") }, one.ID)
			gone := b.job(func(dir string) { write(t, dir+"/h", "z") }, two.ID)
			require.NoError(t, b.Drop(t.Context(), gone.ID))
			before := b.List()
			for range 2 { // also when what was replayed is lost again
				b.powerCut(left)
				after := b.List()
				require.Equal(t, len(before), len(after))
				for i := range after {
					require.Equal(t, before[i].ID, after[i].ID)
					require.Equal(t, before[i].State, after[i].State, "the boot is the same here")
					require.Equal(t, before[i].Base, after[i].Base)
				}
				require.Equal(t, b.requireTree(two.ID), b.requireTree(two.ID))
			}
			three := b.job(func(dir string) { write(t, dir+"/i", "w") }, two.ID)
			b.powerCut(0)
			_, err := b.Lookup(three.ID)
			require.NoError(t, err)
		})
	}
}

// A record that was being written when the power went is none; what is before it
// counts.
func TestRedoTornRecord(t *testing.T) {
	b := newBench(t, view.NameCopy)
	one := b.job(func(dir string) { write(t, dir+"/f", "x") })
	b.recorded()
	p := b.spec(one.ID)
	a, err := b.Prepare(t.Context(), p)
	require.NoError(t, err)
	write(t, a.Target+"/g", "y")
	at := b.recorded()
	two, err := b.Seal(t.Context(), p.ID, nil)
	require.NoError(t, err)
	b.recorded()
	f, err := os.OpenFile(filepath.Join(b.dir, "redo"), os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = f.WriteAt([]byte{0xff}, at+redoHead+3)
	require.NoError(t, errors.Join(err, f.Close()))
	b.powerCut(0)
	require.NoError(t, b.Discard(t.Context(), two.ID))
	_, err = b.Lookup(one.ID)
	require.NoError(t, err)
	_, err = b.Lookup(two.ID)
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	// The numbers go on from there, over what is left of the torn one.
	three := b.job(func(dir string) { write(t, dir+"/h", "z") }, one.ID)
	b.powerCut(0)
	_, err = b.Lookup(three.ID)
	require.NoError(t, err)
}

// Of records that were being written at once a later one may be on the disk without an
// earlier one. It does not come back when others have taken that one's place.
func TestRedoTornBatch(t *testing.T) {
	for _, again := range []string{"lost", "other"} { // the same words at the same place, too
		t.Run(again, func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.note("x", []byte("first"))
			at := b.recorded()
			b.noteBy(b.commitSoon, "x", []byte("lost"))
			b.noteBy(b.commitSoon, "y", []byte("never told"))
			b.recorded()
			first := make([]byte, redoPage)
			f, err := os.OpenFile(filepath.Join(b.dir, "redo"), os.O_RDWR, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(first, at)
			require.NoError(t, errors.Join(err, f.Close()))
			b.powerCut(0)
			require.Equal(t, "first", b.noted("x"))
			b.note("x", []byte(again))
			b.powerCut(0)
			require.Equal(t, again, b.noted("x"))
			var n int
			require.NoError(t, b.db.QueryRowContext(t.Context(), "SELECT count(*) FROM meta WHERE key='y'").Scan(&n))
			require.Zero(t, n)
		})
	}
}

func (b *bench) note(key string, value []byte) {
	b.t.Helper()
	b.noteBy(b.commit, key, value)
}

type committer func(ctx context.Context, fn func(ctx context.Context, tx *txn) error) error

func (b *bench) noteBy(commit committer, key string, value []byte) {
	b.t.Helper()
	require.NoError(b.t, commit(b.t.Context(), func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO meta (key, value) VALUES (?,?)", key, value)
		return err
	}))
}

func (b *bench) noted(key string) string {
	b.t.Helper()
	var v string
	require.NoError(b.t, b.db.QueryRowContext(b.t.Context(), "SELECT value FROM meta WHERE key=?", key).Scan(&v))
	return v
}

// When the log is full, or a record is larger than it, the database itself is made
// durable; nothing is lost before, at or after that.
func TestRedoBeginsAnew(t *testing.T) {
	for _, n := range []int{1, 20, 21, 22, 50} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b := newBench(t, view.NameCopy)
			b.redo.size = 20 * redoPage
			for i := range n {
				b.note("x", fmt.Appendf(nil, "%d", i))
			}
			require.LessOrEqual(t, b.redo.at, b.redo.size)
			b.powerCut(0)
			require.Equal(t, fmt.Sprint(n-1), b.noted("x"))
			b.redo.size = 20 * redoPage
			b.note("large", make([]byte, 30*redoPage))
			b.note("y", []byte("after"))
			b.powerCut(0)
			require.Len(t, b.noted("large"), 30*redoPage)
			require.Equal(t, "after", b.noted("y"))
		})
	}
}

// A log that can't be written is given up, and commits are durable without it.
func TestRedoIsGivenUp(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.note("x", []byte("1"))
	require.NoError(t, b.redo.f.Close())
	require.Error(t, b.commit(t.Context(), func(ctx context.Context, tx *txn) error {
		_, err := tx.ExecContext(ctx, "INSERT OR REPLACE INTO meta (key, value) VALUES ('x', x'32')")
		return err
	}))
	require.Nil(t, b.redo)
	var mode int
	require.NoError(t, b.db.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&mode))
	require.Equal(t, 2, mode, "FULL")
	b.note("x", []byte("3"))
	b.reopen()
	require.NotNil(t, b.redo)
	require.Equal(t, "3", b.noted("x"))
}

// A log and a database that don't belong together are not mixed.
func TestRedoOfAnotherStore(t *testing.T) {
	b := newBench(t, view.NameCopy)
	for range 5 {
		b.note("x", []byte("1"))
	}
	dir, o := b.dir, b.o
	b.crash()
	redo, err := os.ReadFile(filepath.Join(dir, "redo"))
	require.NoError(t, err)
	other := newBench(t, view.NameCopy)
	other.crash()
	// Its first records are gone, as after a log was begun anew.
	require.NoError(t, os.WriteFile(filepath.Join(other.dir, "redo"), redo[3*redoPage:], 0o600))
	_, err = Open(t.Context(), other.dir, o)
	require.ErrorContains(t, err, "one of them is not of this store")
	require.NoError(t, os.Remove(filepath.Join(other.dir, "redo")))
	other.open()
	b.open()
}

func TestStatementsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		arg := rapid.OneOf(
			rapid.Just[any](nil), rapid.Map(rapid.Int64(), func(v int64) any { return v }),
			rapid.Map(rapid.Float64(), func(v float64) any { return v }),
			rapid.Map(rapid.String(), func(v string) any { return v }), rapid.Map(rapid.Bool(), func(v bool) any { return v }),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 50), func(v []byte) any { return v }),
			rapid.Just[any](math.Inf(-1)), rapid.Just[any](int64(math.MinInt64)),
		)
		var want []statement
		for range rapid.IntRange(0, 5).Draw(t, "statements") {
			st := statement{query: rapid.String().Draw(t, "query")}
			for range rapid.IntRange(0, 5).Draw(t, "args") {
				st.args = append(st.args, arg.Draw(t, "arg"))
			}
			want = append(want, st)
		}
		got, err := decodeStatements(appendStatements(nil, want))
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func FuzzStatements(f *testing.F) {
	f.Add(appendStatements(nil, []statement{{query: "q", args: []any{int64(1), "x", []byte{2}, 1.5, nil, true}}}))
	f.Fuzz(func(_ *testing.T, b []byte) { decodeStatements(b) })
}
