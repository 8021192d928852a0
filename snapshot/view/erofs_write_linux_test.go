package view

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// Pieces in any grouping, by several goroutines, make the same bytes as one by one:
// padding is never written over what another call has put there.
func TestBundlePieces(t *testing.T) {
	for seed := range uint64(12) {
		r := rand.New(rand.NewPCG(seed, 1))
		changes, pieces := bundlePieces(r)
		b, err := newBundleFiles(filepath.Join(t.TempDir(), "u"), &UnpackSpec{ID: newID(t), Later: true, Meter: &Meter{}}, layBundle(changes))
		require.NoError(t, err)
		if r.IntN(2) == 0 {
			r.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		}
		var wg sync.WaitGroup
		total := int64(0)
		for rest := pieces; len(rest) > 0; {
			n := min(1+r.IntN(len(rest)), len(rest))
			part := rest[:n]
			rest = rest[n:]
			wg.Go(func() {
				if err := b.writePieces(part...); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.NoError(t, b.finish())
		want := map[int][]byte{}
		for i := range changes {
			want[i] = make([]byte, changes[i].Entry.Size)
		}
		for _, p := range pieces {
			copy(want[p.Change][p.Off:], p.Bytes)
			total += int64(len(p.Bytes))
		}
		for i, w := range want {
			got := make([]byte, len(w))
			s := b.plan.spots[i]
			f := b.bundle
			if s.object > 0 {
				if f, err = os.Open(filepath.Join(b.dir, objectName(s))); err != nil {
					t.Fatal(err)
				}
				defer f.Close() //nolint:errcheck,gocritic // a handful
			}
			if len(w) > 0 {
				_, err = f.ReadAt(got, s.at)
				require.NoError(t, err)
			}
			require.True(t, bytes.Equal(w, got), "seed %d, file %d of %d bytes", seed, i, len(w))
		}
		require.Equal(t, total, b.meter.Written())
		require.NoError(t, b.there.absent(b.plan.bytes, func(_, _ int64) error { return nil }))
		b.close()
	}
}

// bundlePieces makes files, some of them objects, and what is to be written of them.
func bundlePieces(r *rand.Rand) (changes []snapshot.Change, pieces []snapshot.Piece) {
	chacha := rand.NewChaCha8([32]byte{byte(r.Uint32())})
	for range 1 + r.IntN(200) {
		size := []int64{0, 1, 511, 512, 513, int64(r.IntN(6000)), bundleMost + int64(r.IntN(9000))}[min(r.IntN(20), 6-r.IntN(7))]
		i := len(changes)
		changes = append(changes, snapshot.Change{Entry: snapshot.Entry{Type: snapshot.TypeFile, Size: size}})
		for off := int64(0); off < size; {
			n := size - off
			if r.IntN(4) == 0 {
				n = min(n, 1+int64(r.IntN(5000)))
			}
			p := make([]byte, n)
			chacha.Read(p)      //nolint:errcheck // it has none
			if r.IntN(20) > 0 { // else zeros are left out
				pieces = append(pieces, snapshot.Piece{Change: i, Off: off, Bytes: p})
			}
			off += n
		}
	}
	return changes, pieces
}

func TestBundlePiecesBeyond(t *testing.T) {
	changes := []snapshot.Change{{Entry: snapshot.Entry{Type: snapshot.TypeFile, Size: 5}}, {Delete: true}}
	b, err := newBundleFiles(filepath.Join(t.TempDir(), "u"), &UnpackSpec{ID: newID(t), Later: true}, layBundle(changes))
	require.NoError(t, err)
	defer b.close()
	for _, p := range []snapshot.Piece{
		{Change: -1}, {Change: 1}, {Change: 2}, {Off: -1, Bytes: []byte("x")}, {Off: 5, Bytes: []byte("x")}, {Bytes: []byte("sixsix")},
	} {
		require.Error(t, b.writePieces(snapshot.Piece{Bytes: []byte("ok")}, p), "%+v", p)
	}
}
