package pack_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/pack"
)

const goldenV1 = "testdata/v1"

var secondKey = []byte("the domain's key of these tests.")

func readFile(t *testing.T, elem ...string) []byte {
	b, err := os.ReadFile(filepath.Join(elem...))
	require.NoError(t, err)
	return b
}

// FORMAT.md says enough to read what the first version wrote.
func TestSecondReader(t *testing.T) {
	whole := readFile(t, goldenV1, "tree.manifest")
	require.Equal(t, string(readFile(t, goldenV1, "tree.digest")), fmt.Sprintf("%x", sha256.Sum256(whole)))
	var tree []entry
	require.NoError(t, read(func() { tree = secondManifest(whole) }))

	var puts []entry
	for _, name := range []string{"base", "top", "large-base", "large-top"} {
		var ix *index
		require.NoError(t, read(func() { ix = secondIndex(readFile(t, goldenV1, name+".index")) }), name)
		var want index
		require.NoError(t, json.Unmarshal(readFile(t, goldenV1, name+".json"), &want))
		got, err := json.Marshal(ix)
		require.NoError(t, err)
		say, err := json.Marshal(plain(&want))
		require.NoError(t, err)
		require.JSONEq(t, string(say), string(got), name)
		for _, ch := range ix.Changes {
			if ch.Delete {
				continue
			}
			require.NoError(t, read(func() {
				ix.content(&ch.Entry, secondKey, func(d string) []byte { return readFile(t, goldenV1, "packs", d) })
			}), "%s: %s", name, ch.Entry.Path)
			if name == "top" {
				puts = append(puts, ch.Entry)
			}
		}
	}
	require.Equal(t, puts, tree)
}

// plain leaves the difference between no list and an empty one out: the format has none.
func plain(ix *index) *index {
	for i := range ix.Changes {
		e := &ix.Changes[i].Entry
		if len(e.Chunks) == 0 {
			e.Chunks = nil
		}
		for j := range e.Xattrs {
			if e.Xattrs[j].Value == nil {
				e.Xattrs[j].Value = []byte{}
			}
		}
	}
	return ix
}

// What the first reader refuses, the second refuses too, as FORMAT.md says.
func TestSecondReaderRefuses(t *testing.T) {
	list, err := os.ReadDir(filepath.Join(goldenV1, "damaged"))
	require.NoError(t, err)
	for _, e := range list {
		if strings.HasSuffix(e.Name(), ".txt") {
			continue
		}
		b := readFile(t, goldenV1, "damaged", e.Name())
		require.Error(t, read(func() {
			if strings.HasSuffix(e.Name(), ".manifest") {
				secondManifest(b)
			} else {
				secondIndex(b)
			}
		}), e.Name())
	}
}

// It reads what is written today, too: small files, a large one, and one that changed.
func TestSecondReaderToday(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"packs", "tmp"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	noise := func(n int, seed byte) []byte {
		b := make([]byte, n)
		rand.NewChaCha8([32]byte{seed}).Read(b) //nolint:errcheck // never fails
		return b
	}
	change := func(path string, content []byte) snapshot.Change {
		src := filepath.Join(dir, fmt.Sprintf("%s-%d", path, content[0]))
		require.NoError(t, os.WriteFile(src, content, 0o600))
		return snapshot.Change{Entry: snapshot.Entry{Path: path, Type: snapshot.TypeFile, Mode: 0o644, Size: int64(len(content)), Source: src}}
	}
	o := pack.EncoderOptions{Dir: filepath.Join(dir, "packs"), Tmp: filepath.Join(dir, "tmp"), Key: secondKey}
	big := noise(3<<20, 1)
	clear(big[1<<20 : 1<<20+300_000])
	first := []snapshot.Change{change("large", big), change("small", bytes.Repeat([]byte("small "), 900))}
	base, _, err := pack.Encode(t.Context(), o, first)
	require.NoError(t, err)

	changed := bytes.Clone(big)
	changed[0]++
	copy(changed[2<<20+12_345:], noise(5000, 2))
	known := base.Locate()
	o.Known = func(d snapshot.Digest) (pack.Location, bool) { l, ok := known[d]; return l, ok }
	o.Previous = func(string) *snapshot.Entry { return &first[0].Entry }
	top, _, err := pack.Encode(t.Context(), o, []snapshot.Change{change("large", changed)})
	require.NoError(t, err)
	require.Len(t, top.Packs, 2, "its own and the base's")

	for _, l := range []struct {
		ix   *pack.Index
		want [][]byte
	}{{base, [][]byte{big, bytes.Repeat([]byte("small "), 900)}}, {top, [][]byte{changed}}} {
		var b bytes.Buffer
		_, err := pack.WriteIndex(&b, l.ix)
		require.NoError(t, err)
		require.NoError(t, read(func() {
			ix := secondIndex(b.Bytes())
			for i, ch := range ix.Changes {
				got := ix.content(&ch.Entry, secondKey, func(d string) []byte { return readFile(t, dir, "packs", d) })
				require.True(t, bytes.Equal(l.want[i], got), ch.Entry.Path)
			}
		}))
	}
}
