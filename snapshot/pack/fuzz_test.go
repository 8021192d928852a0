package pack

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// seeds are the golden files of one kind, damaged ones included.
func seeds(f *testing.F, suffix string) (list [][]byte) {
	err := filepath.WalkDir(goldenDir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, suffix) {
			return err
		}
		b, err := os.ReadFile(p)
		list = append(list, b)
		return err
	})
	require.NoError(f, err)
	require.NotEmpty(f, list)
	return list
}

// What is accepted is canonical: it is written again byte for byte.
func FuzzReadManifest(f *testing.F) {
	for _, b := range seeds(f, ".manifest") {
		f.Add(b, false)
		if len(b) > packHeader+32 {
			f.Add(b[packHeader:len(b)-32], true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, wrap bool) {
		if wrap { // else the sum would keep all but the seeds out
			b = reseal(append(append([]byte(manifestMagic), manifestV1), b...))
		}
		m, d, err := ReadManifest(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, d2 := encodeManifest(t, m)
		if d != d2 || !bytes.Equal(b, again) {
			t.Fatalf("read %x and wrote %x", b, again)
		}
	})
}

// What is accepted refers to nothing that is not there, and survives being written.
func FuzzReadIndex(f *testing.F) {
	for _, b := range seeds(f, ".index") {
		f.Add(b, false)
		if ix, err := parseIndex(b); err == nil {
			body, err := appendBody(nil, ix)
			require.NoError(f, err)
			f.Add(body, true)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, wrap bool) {
		if wrap {
			b = rawIndex(b, CodecRaw, uint64(len(b)))
		}
		ix, err := ReadIndex(bytes.NewReader(b))
		if err != nil {
			return
		}
		back, err := ReadIndex(bytes.NewReader(encodeIndex(t, ix)))
		require.NoError(t, err)
		require.Equal(t, ix.Locate(), back.Locate())
		require.Len(t, back.Changes, len(ix.Changes))
		for i := range ix.Changes {
			require.True(t, ix.Changes[i].Entry.Equal(&back.Changes[i].Entry))
		}
	})
}

// FuzzExtract is an attacker who chooses index and pack, but has no key: nothing
// may be written that is not a chunk of the right digest, or outside of its file.
func FuzzExtract(f *testing.F) {
	for _, name := range []string{"base", "top"} {
		b, err := os.ReadFile(filepath.Join(goldenDir, name+".index"))
		require.NoError(f, err)
		ix, err := parseIndex(b)
		require.NoError(f, err)
		body, err := appendBody(nil, ix)
		require.NoError(f, err)
		packs := make([][]byte, 2)
		for i, p := range ix.Packs {
			packs[i], err = os.ReadFile(filepath.Join(goldenDir, "packs", p.Digest.String()))
			require.NoError(f, err)
		}
		f.Add(body, packs[0], packs[1])
		for i := range 8 { // flips in the first frame, which may be one that is stored as it is
			bad := bytes.Clone(packs[0])
			bad[min(packHeader+i*5, len(bad)-1)] ^= 4
			f.Add(body, bad, packs[1])
		}
	}
	f.Fuzz(func(t *testing.T, body, pack0, pack1 []byte) {
		ix := &Index{}
		if err := readBody(&cursor{b: body}, ix); err != nil {
			return
		}
		m := &memory{packs: map[snapshot.Digest][]byte{}}
		for i, p := range ix.Packs {
			m.packs[p.Digest] = [][]byte{pack0, pack1}[i%2]
		}
		k := newKeyed(testKey)
		ids := map[snapshot.Digest]bool{}
		for _, c := range ix.Chunks {
			ids[c.ID] = true
		}
		err := Extract(t.Context(), ix, ExtractOptions{Key: testKey, Workers: 1, Open: m.open}, func(i int, off int64, p []byte) error {
			e := &ix.Changes[i].Entry
			if off < 0 || off > e.Size || int64(len(p)) > e.Size-off {
				t.Errorf("%q: %d bytes at %d of %d", e.Path, len(p), off, e.Size)
			}
			for _, c := range e.Chunks {
				if off == c.Off && int64(len(p)) == c.Len && k.id(p) != c.ID {
					t.Errorf("%q: wrong bytes at %d", e.Path, off)
				}
			}
			return nil
		})
		_ = err // most are refused; what matters is that it ends, and what was written
	})
}
