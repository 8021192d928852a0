package pack

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func allIDs(key []byte, msgs [][]byte) []snapshot.Digest {
	out := make([]snapshot.Digest, len(msgs))
	newKeyed(key).ids(len(msgs), func(i int) []byte { return msgs[i] }, func(i int, id snapshot.Digest) { out[i] = id })
	return out
}

// Ids are HMAC-SHA-256 by whatever way they are computed.
func TestIDs(t *testing.T) {
	content := noise(4096, 1)
	var every [][]byte // each length around the ends of blocks, beside a short and a long one
	for n := range 200 {
		every = append(every, content[:n], content[n:n+n*7], content)
	}
	for _, msgs := range [][][]byte{nil, {{}}, {content}, every, every[:301]} {
		for i, id := range allIDs(testKey, msgs) {
			m := hmac.New(sha256.New, testKey)
			m.Write(msgs[i])
			require.Equal(t, snapshot.Digest(m.Sum(nil)), id, "message %d of %d bytes", i, len(msgs[i]))
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(rt, "key")
		msgs := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 300), 0, 9).Draw(rt, "messages")
		for i, id := range allIDs(key, msgs) {
			m := hmac.New(sha256.New, key)
			m.Write(msgs[i])
			require.Equal(rt, snapshot.Digest(m.Sum(nil)), id)
		}
	})
}

// One keyed is used again and again.
func TestIDsAgain(t *testing.T) {
	p := newKeyed(testKey)
	k := newKeyed(testKey)
	for n := range 20 {
		msg := bytes.Repeat([]byte{byte(n)}, n*50)
		seen := 0
		p.ids(3, func(int) []byte { return msg }, func(_ int, id snapshot.Digest) {
			seen++
			require.Equal(t, k.id(msg), id)
		})
		require.Equal(t, 3, seen)
	}
}

func BenchmarkIDs(b *testing.B) {
	content := noise(1<<20, 1)
	for _, size := range []int{1 << 10, 8 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			p := newKeyed(testKey)
			for b.Loop() {
				p.ids(len(content)/size, func(i int) []byte { return content[i*size:][:size] }, func(int, snapshot.Digest) {})
			}
		})
	}
}
