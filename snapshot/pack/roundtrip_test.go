package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

var testKey = []byte("the domain's key of these tests.")

// world is a directory of sources and one of packs.
type world struct {
	t    testing.TB
	dir  string
	next int
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, dir: t.TempDir()}
	for _, d := range []string{"packs", "tmp", "src"} {
		require.NoError(t, os.Mkdir(filepath.Join(w.dir, d), 0o700))
	}
	return w
}

func (w *world) options() EncoderOptions {
	return EncoderOptions{Dir: filepath.Join(w.dir, "packs"), Tmp: filepath.Join(w.dir, "tmp"), Key: testKey}
}

// packIs checks that a file is the pack that it should be.
func packIs(name string, want Pack) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	if got := snapshot.Digest(sha256.Sum256(b)); got != want.Digest || int64(len(b)) != want.Bytes {
		return fmt.Errorf("%s: %d bytes with digest %s", name, len(b), got)
	}
	return nil
}

// file makes a source and returns a change that puts it at path.
func (w *world) file(path string, content []byte) snapshot.Change {
	w.next++
	src := filepath.Join(w.dir, "src", fmt.Sprint(w.next))
	require.NoError(w.t, os.WriteFile(src, content, 0o600))
	return snapshot.Change{Entry: snapshot.Entry{
		Path: path, Type: snapshot.TypeFile, Mode: 0o644,
		Size: int64(len(content)), Source: src,
	}}
}

// open serves packs from the directory.
func (w *world) open(_ context.Context, d snapshot.Digest, off, n int64) (io.ReadCloser, error) {
	f, err := os.Open(filepath.Join(w.dir, "packs", d.String()))
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(f, off, n), f}, nil
}

// sink is a set of files that Extract writes to.
type sink struct {
	mu    sync.Mutex
	files map[int][]byte
}

func newSink(ix *Index) *sink {
	s := &sink{files: map[int][]byte{}}
	for i, c := range ix.Changes {
		if c.Entry.Type == snapshot.TypeFile && !c.Delete {
			s.files[i] = make([]byte, c.Entry.Size)
		}
	}
	return s
}

func (s *sink) write(i int, off int64, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := copy(s.files[i][off:], p); n != len(p) {
		return fmt.Errorf("change %d: %d bytes at %d leave the file", i, len(p), off)
	}
	return nil
}

// roundtrip encodes, writes and reads the index, extracts, and returns what came out.
func (w *world) roundtrip(o EncoderOptions, changes []snapshot.Change) (*Index, Stats, *sink) {
	ix, stats, err := Encode(w.t.Context(), o, changes)
	require.NoError(w.t, err)
	var b bytes.Buffer
	_, err = WriteIndex(&b, ix)
	require.NoError(w.t, err)
	back, err := ReadIndex(&b)
	require.NoError(w.t, err)
	s := newSink(back)
	require.NoError(w.t, Extract(w.t.Context(), back, ExtractOptions{Key: testKey, Open: w.open}, s.write))
	left, err := os.ReadDir(filepath.Join(w.dir, "tmp"))
	require.NoError(w.t, err)
	require.Empty(w.t, left, "temporary files left")
	return back, stats, s
}

// noise is incompressible, text compresses well.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	r.Read(b) //nolint:errcheck // never fails
	return b
}

func text(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 0, n+16)
	for len(b) < n {
		b = fmt.Appendf(b, "line %d of %d\n", r.IntN(1000), seed)
	}
	return b[:n]
}

func TestRoundtripKinds(t *testing.T) {
	w := newWorld(t)
	big := append(append(text(5<<20, 1), make([]byte, 9<<20)...), noise(3<<20+17, 2)...)
	cases := []struct {
		name    string
		content []byte
	}{
		{"a-empty", nil},
		{"b-byte", []byte{1}},
		{"c-zero-byte", []byte{0}},
		{"d-zeros", make([]byte, 200<<10)},
		{"e-text", text(3000, 3)},
		{"f-noise", noise(100<<10, 4)},
		{"g-mib", text(1<<20, 5)},
		{"h-mib-and-one", noise(1<<20+1, 6)},
		{"i-piece", noise(4<<20, 7)},
		{"j-piece-and-one", noise(4<<20+1, 8)},
		{"k-big", big},
		{"l-zero-tail", append(noise(70<<10, 9), make([]byte, 300<<10)...)},
		{"m-zero-head", append(make([]byte, 300<<10), noise(70<<10, 10)...)},
	}
	var changes []snapshot.Change
	for _, c := range cases {
		changes = append(changes, w.file(c.name, c.content))
	}
	ix, stats, s := w.roundtrip(w.options(), changes)
	for i, c := range cases {
		require.True(t, bytes.Equal(c.content, s.files[i]), "%s: content differs", c.name)
		require.True(t, ix.Changes[i].Entry.Hashed(), c.name)
		require.True(t, changes[i].Entry.Hashed(), c.name)
	}
	require.Empty(t, changes[3].Entry.Chunks, "a file of zeros has no chunks")
	require.NotNil(t, changes[3].Entry.Chunks)
	require.Equal(t, stats.Plain, stats.New)
	require.Less(t, stats.Stored, stats.Plain)
}

func TestRoundtripRandom(t *testing.T) {
	w := newWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(0, 30).Draw(rt, "files")
		var changes []snapshot.Change
		var want [][]byte
		for i := range n {
			size := rapid.OneOf(rapid.IntRange(0, 5000), rapid.IntRange(0, 300<<10)).Draw(rt, "size")
			seed := rapid.Uint64Range(0, 5).Draw(rt, "seed")
			var b []byte
			switch rapid.IntRange(0, 2).Draw(rt, "kind") {
			case 0:
				b = text(size, seed)
			case 1:
				b = noise(size, seed)
			case 2: // islands in zeros
				b = make([]byte, size)
				for range rapid.IntRange(0, 3).Draw(rt, "islands") {
					if size > 0 {
						copy(b[rapid.IntRange(0, size-1).Draw(rt, "at"):], noise(100, seed))
					}
				}
			}
			changes = append(changes, w.file(fmt.Sprintf("d%d/f%03d", i/10, i), b))
			want = append(want, b)
		}
		_, _, s := w.roundtrip(w.options(), changes)
		for i := range want {
			require.True(rt, bytes.Equal(want[i], s.files[i]), "file %d differs", i)
		}
	})
}
