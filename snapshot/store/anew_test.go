package store

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
	"github.com/roost-ci/roost/snapshot/view"
)

// grow makes a line of n snapshots on base, each with a file of its own and one that
// all change; some add a name to a hard link or delete a file. The first brings 2 MiB.
func grow(t testing.TB, b *bench, base snapshot.ID, from, n int) []snapshot.ID {
	t.Helper()
	var ids []snapshot.ID
	for i := from; i < from+n; i++ {
		var on []snapshot.ID
		if base != "" {
			on = []snapshot.ID{base}
		}
		in := b.job(func(dir string) {
			if base == "" {
				require.NoError(t, os.WriteFile(dir+"/big", noise(2<<20, 1), 0o644))
				write(t, dir+"/deep/er/first", "of all")
				require.NoError(t, os.Link(dir+"/deep/er/first", dir+"/name"))
				require.NoError(t, os.Symlink("nowhere", dir+"/soft"))
			}
			write(t, fmt.Sprintf("%s/own/%d", dir, i), fmt.Sprintf("only in %d", i))
			write(t, dir+"/all", fmt.Sprintf("in all, now %d", i))
			if i == 3 || i == 24 {
				require.NoError(t, os.Link(dir+"/name", fmt.Sprintf("%s/name%d", dir, i)))
			}
			if i%7 == 3 {
				require.NoError(t, os.Remove(fmt.Sprintf("%s/own/%d", dir, i-1)))
			}
		}, on...)
		base = in.ID
		ids = append(ids, in.ID)
	}
	return ids
}

// wireChain lists a snapshot and all that must be fetched before it, the root first.
func (b *bench) wireChain(id snapshot.ID) []snapshot.ID {
	b.t.Helper()
	var out []snapshot.ID
	for id != "" {
		in, err := b.Lookup(id)
		require.NoError(b.t, err)
		require.False(b.t, in.Index.IsZero())
		out = append([]snapshot.ID{id}, out...)
		id = in.WireBase
	}
	return out
}

// requireSame compares two trees entry by entry.
func requireSame(t testing.TB, a, b *bench, id snapshot.ID) {
	t.Helper()
	x, err := a.Tree(t.Context(), id)
	require.NoError(t, err)
	y, err := b.Tree(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, y.Entries, len(x.Entries))
	for i := range x.Entries {
		e, o := x.Entries[i], y.Entries[i]
		e.Source, o.Source, e.SourceAt, o.SourceAt = "", "", 0, 0
		require.Equal(t, e, o)
	}
	require.Equal(t, a.requireTree(id), b.requireTree(id))
}

// The chain of a line never gets longer than the bound, over restarts; what begins
// anew stores nothing again; and it is all that another host needs.
func TestLineBeginsAnew(t *testing.T) {
	t.Parallel()
	drivers(t, func(t *testing.T, driver string) {
		b := newBench(t, driver)
		ids := grow(t, b, "", 0, 20)
		b.packed(ids...)
		b.reopen()
		ids = append(ids, grow(t, b, ids[19], 20, 13)...)
		b.packed(ids...)
		b.reopen()
		ids = append(ids, grow(t, b, ids[32], 33, 7)...)
		infos := b.packed(ids...)
		b.reopen()

		for i, in := range infos {
			got, err := b.Lookup(in.ID)
			require.NoError(t, err)
			require.Equal(t, in, got, "after a restart")
			want := snapshot.ID("")
			if i > 0 {
				want = ids[i-1]
			}
			require.Equal(t, want, in.Base, "%d stands here where it stood", i)
			if i == 32 {
				want = ""
			}
			require.Equal(t, want, in.WireBase, "%d", i)
			require.Len(t, b.wireChain(in.ID), i%32+1, "%d", i)
			if i > 0 {
				require.Less(t, in.StoredBytes, int64(20<<10), "%d", i)
				require.Less(t, in.DiskBytes, int64(40<<10), "%d", i)
			}
			if i == 0 || i == 32 {
				require.Greater(t, in.FetchBytes, int64(2<<20), "%d", i)
			} else {
				require.Less(t, in.FetchBytes, int64(20<<10), "%d", i)
			}
		}
		require.Less(t, infos[32].PlainBytes, int64(100))
		ix, err := b.readIndex(infos[32].Index)
		require.NoError(t, err)
		require.Zero(t, ix.Base)
		own := 0
		for _, p := range ix.Packs {
			if p.Own {
				own++
				require.Less(t, p.Bytes, int64(1<<10))
			}
		}
		require.Equal(t, 1, own, "its own change")
		require.Greater(t, len(ix.Packs), 20, "the others are its ancestors'")
		require.Len(t, infos[32].Blobs, len(ix.Packs)+1, "and are uploaded with it")
		require.NoError(t, b.Verify(t.Context(), ids[32]))
		b.requireTree(ids[39])
		require.ErrorIs(t, b.Drop(t.Context(), ids[31]), snapshot.ErrBusy, "its files are needed here")

		// What the newest needs, and nothing else, is in this blob store.
		r, dst := newRemote(t), newBench(t, driver)
		chain := b.wireChain(ids[39])
		require.Equal(t, ids[32:], chain)
		for i, id := range chain {
			require.NoError(t, dst.Import(t.Context(), r.upload(b, id), r.open, nil))
			require.NoError(t, dst.Verify(t.Context(), id), "%d", 32+i)
		}
		dst.reopen()
		for i, id := range chain {
			in, err := dst.Lookup(id)
			require.NoError(t, err)
			require.Equal(t, infos[32+i].FetchBytes, in.FetchBytes)
			requireSame(t, b, dst, id)
		}
		// There the line goes on, and begins anew where it has to.
		more := grow(t, dst, ids[39], 40, 25)
		dst.packed(more...)
		require.Len(t, dst.wireChain(more[23]), 32)
		require.Equal(t, more[24:], dst.wireChain(more[24]))
	})
}

// A layer can be uploaded when the blob store has its ancestors' packs already and
// this host has not.
func TestAnewOnDurableAncestors(t *testing.T) {
	driver := overlayOrCopy(t)
	b, dst, r := newBench(t, driver), newBench(t, driver), newRemote(t)
	b.o.MaxChain = 3
	b.reopen()
	ids := grow(t, b, "", 0, 3)
	b.packed(ids...)
	for _, id := range ids {
		r.upload(b, id)
		require.NoError(t, b.MarkDurable(t.Context(), id))
	}
	b.reopen()
	entries, err := os.ReadDir(filepath.Join(b.dir, "packs"))
	require.NoError(t, err)
	require.Empty(t, entries)
	// Files that are hashed are not read: the content is not there to be read.
	m, err := b.Tree(t.Context(), ids[0])
	require.NoError(t, err)
	big, ok := m.Find("big")
	require.True(t, ok)
	content, err := os.ReadFile(big.Source)
	require.NoError(t, err)
	last := grow(t, b, ids[2], 3, 1)[0]
	require.NoError(t, os.Remove(big.Source))
	in := b.packed(last)[0]
	require.NoError(t, os.WriteFile(big.Source, content, 0o644))
	require.NoError(t, os.Chtimes(big.Source, time.Unix(0, big.MTime), time.Unix(0, big.MTime)))
	require.Empty(t, in.WireBase)
	require.Len(t, in.Blobs, 2, "its own pack and the index")
	require.NoError(t, dst.Import(t.Context(), r.upload(b, last), r.open, nil))
	requireSame(t, b, dst, last)
}

// A merge begins anew, too: with what it has of all its parents.
func TestMergeBeginsAnew(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		b, dst, r := newBench(t, driver), newBench(t, driver), newRemote(t)
		b.o.MaxChain = 3
		b.reopen()
		ids := grow(t, b, "", 0, 2)
		left := b.job(func(dir string) { write(t, dir+"/left", "l") }, ids[1])
		right := b.job(func(dir string) {
			write(t, dir+"/right", "r")
			require.NoError(t, os.Rename(dir+"/deep", dir+"/moved"))
		}, ids[1])
		join := b.job(func(dir string) { write(t, dir+"/both", "b") }, left.ID, right.ID)
		in := b.packed(append(ids, left.ID, right.ID, join.ID)...)
		require.NotEmpty(t, in[4].Base)
		require.Empty(t, in[4].WireBase)
		require.Less(t, in[4].StoredBytes, int64(20<<10))
		require.NoError(t, b.Verify(t.Context(), join.ID))
		require.NoError(t, dst.Import(t.Context(), r.upload(b, join.ID), r.open, nil))
		requireSame(t, b, dst, join.ID)
	})
}

// A host that has an older snapshot of the line copies what that holds.
func TestAnewFetchesLittle(t *testing.T) {
	driver := overlayOrCopy(t)
	b, dst, r := newBench(t, driver), newBench(t, driver), newRemote(t)
	b.o.MaxChain = 3
	b.reopen()
	ids := grow(t, b, "", 0, 4)
	b.packed(ids...)
	require.NoError(t, dst.Import(t.Context(), r.upload(b, ids[0]), r.open, nil))
	spec := r.upload(b, ids[3])
	require.Empty(t, spec.Base)
	var moved int64
	open := func(ctx context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
		if d != spec.Index {
			atomic.AddInt64(&moved, n)
		}
		return r.open(ctx, d, off, n)
	}
	require.NoError(t, dst.Import(t.Context(), spec, open, nil))
	require.Less(t, moved, int64(100<<10))
	requireSame(t, b, dst, ids[3])
	require.NoError(t, dst.Remove(t.Context(), ids[0]), "it stands on nothing")
	require.NoError(t, dst.Verify(t.Context(), ids[3]))
}

// Damage is found in the layer that brought the file.
func TestVerifyOfAnew(t *testing.T) {
	b := newBench(t, overlayOrCopy(t))
	b.o.MaxChain = 1
	b.reopen()
	ids := grow(t, b, "", 0, 2)
	b.packed(ids...)
	m, err := b.Tree(t.Context(), ids[1])
	require.NoError(t, err)
	damage := func(path string) {
		e, ok := m.Find(path)
		require.True(t, ok)
		data, err := os.ReadFile(e.Source)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(e.Source, bytes.ToUpper(data), 0o644))
		require.NoError(t, os.Chtimes(e.Source, time.Unix(0, e.MTime), time.Unix(0, e.MTime)))
	}
	damage("own/0")
	require.NoError(t, b.Verify(t.Context(), ids[1]))
	damage("own/1")
	var corrupt *snapshot.CorruptError
	require.ErrorAs(t, b.Verify(t.Context(), ids[1]), &corrupt)
	require.Equal(t, "own/1", corrupt.Name)
	require.ErrorAs(t, b.Verify(t.Context(), ids[0]), &corrupt)
}

// toSchema1 makes b's database one of the first schema, with the same rows.
func toSchema1(t *testing.T, b *bench) {
	t.Helper()
	const columns = `seq, id, base, parents, place, fanin, imported, state, synced, boot, domain_key, manifest, idx,
		index_bytes, stored_bytes, plain_bytes, tree_bytes, entries, disk_bytes, encode_ms, err, made`
	path := filepath.Join(b.dir, "store.db")
	old := path + "-old"
	db, err := sql.Open("sqlite", dsn(old))
	require.NoError(t, err)
	db.SetMaxOpenConns(1)
	for _, q := range []string{
		schema1, "PRAGMA application_id=" + fmt.Sprint(appID), "PRAGMA user_version=1",
		"ATTACH '" + path + "' AS new",
		"INSERT INTO meta SELECT * FROM new.meta",
		"INSERT INTO views SELECT * FROM new.views",
		"INSERT INTO layers (" + columns + ") SELECT " + columns + " FROM new.layers",
		"INSERT INTO packs SELECT * FROM new.packs",
		"DETACH new",
	} {
		_, err := db.Exec(q)
		require.NoError(t, err, q)
	}
	require.NoError(t, db.Close())
	for _, f := range []string{path, path + "-wal", path + "-shm"} {
		require.NoError(t, os.RemoveAll(f))
	}
	require.NoError(t, os.Rename(old, path)) //nolint:forbidigo // of a test
}

// A store of the first schema is taken over: its chains are as long as they are,
// and the next layer is bounded.
func TestSchema1IsMigrated(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.o.MaxChain = 100
	b.reopen()
	ids := grow(t, b, "", 0, 5)
	b.packed(ids...)
	ids = append(ids, grow(t, b, ids[4], 5, 1)...) // nobody packs any more
	want := b.List()
	id := b.ID()
	b.crash()
	toSchema1(t, b)
	b.o.MaxChain = 4
	b.open()
	require.Equal(t, id, b.ID())
	require.Equal(t, want, b.List())
	require.Empty(t, want[5].WireBase, "it is not packed yet")
	require.Len(t, b.wireChain(ids[4]), 5)
	in := b.packed(ids[5])[0]
	require.Empty(t, in.WireBase)
	require.Equal(t, ids[4], in.Base)
	b.reopen()
	require.Equal(t, ids[5:], b.wireChain(ids[5]))
	var version int
	require.NoError(t, b.db.QueryRow("PRAGMA user_version").Scan(&version))
	require.Equal(t, schema, version)
}

// An index of an ancestor that can't be read costs storing, not the snapshot.
func TestAnewOnLostIndex(t *testing.T) {
	b := newBench(t, view.NameCopy)
	b.o.MaxChain = 2
	b.reopen()
	ids := grow(t, b, "", 0, 2)
	first := b.packed(ids...)[0]
	ids = append(ids, grow(t, b, ids[1], 2, 1)...) // nobody packs any more
	b.reopen()
	require.NoError(t, os.Remove(b.indexPath(first.Index)))
	in := b.packed(ids[2])[0]
	require.Empty(t, in.WireBase)
	require.Greater(t, in.StoredBytes, int64(2<<20))
	ix, err := b.readIndex(in.Index)
	require.NoError(t, err)
	var own []pack.Pack
	for _, p := range ix.Packs {
		if p.Own {
			own = append(own, p)
		}
	}
	require.Len(t, own, 2)
}
