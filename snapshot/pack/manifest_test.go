package pack

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func encodeManifest(t require.TestingT, m *snapshot.Manifest) ([]byte, snapshot.Digest) {
	var b bytes.Buffer
	d, err := WriteManifest(&b, m)
	require.NoError(t, err)
	return b.Bytes(), d
}

func TestManifestRoundtrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := genManifest(rt)
		b, d := encodeManifest(rt, m)
		require.Equal(rt, snapshot.Digest(sha256.Sum256(b)), d)
		back, d2, err := ReadManifest(bytes.NewReader(b))
		require.NoError(rt, err)
		require.Equal(rt, d, d2)
		require.Len(rt, back.Entries, len(m.Entries))
		for i := range m.Entries {
			require.True(rt, m.Entries[i].Equal(&back.Entries[i]), "entry %d:\n%+v\n%+v", i, m.Entries[i], back.Entries[i])
		}
		again, _ := encodeManifest(rt, back)
		require.Equal(rt, b, again)
	})
}

// The digest must not depend on anything but the tree.
func TestManifestDigest(t *testing.T) {
	e := snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Mode: 0o644, Chunks: []snapshot.Chunk{}}
	base := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir, Mode: 0o755}, e}}
	want, err := ManifestDigest(base)
	require.NoError(t, err)

	same := func(name string, change func(e *snapshot.Entry), equal bool) {
		m := &snapshot.Manifest{Entries: slices.Clone(base.Entries)}
		change(&m.Entries[1])
		got, err := ManifestDigest(m)
		require.NoError(t, err, name)
		require.Equal(t, equal, got == want, name)
	}
	same("source", func(e *snapshot.Entry) { e.Source = "/somewhere" }, true)
	same("nil chunks of an empty file", func(e *snapshot.Entry) { e.Chunks = nil }, true)
	same("empty xattrs", func(e *snapshot.Entry) { e.Xattrs = []snapshot.Xattr{} }, true)
	same("one nanosecond", func(e *snapshot.Entry) { e.MTime++ }, false)
	same("owner", func(e *snapshot.Entry) { e.UID++ }, false)
	same("a hole", func(e *snapshot.Entry) { e.Size++; e.Chunks = []snapshot.Chunk{} }, false)
	same("link", func(e *snapshot.Entry) { e.Link = "f" }, false)
	same("xattr", func(e *snapshot.Entry) { e.Xattrs = []snapshot.Xattr{{Name: "user.a"}} }, false)
}

func TestManifestRefusesToWrite(t *testing.T) {
	file := func(change func(*snapshot.Entry)) []snapshot.Entry {
		e := snapshot.Entry{Path: "f", Type: snapshot.TypeFile, Size: 10, Chunks: []snapshot.Chunk{{Len: 10}}}
		change(&e)
		return []snapshot.Entry{e}
	}
	dir := func(paths ...string) (list []snapshot.Entry) {
		for _, p := range paths {
			list = append(list, snapshot.Entry{Path: p, Type: snapshot.TypeDir})
		}
		return list
	}
	cases := []struct {
		name    string
		entries []snapshot.Entry
		want    string
	}{
		{"not hashed", file(func(e *snapshot.Entry) { e.Chunks = nil }), "not hashed"},
		{"out of order", dir("b", "a"), "out of order"},
		{"twice", dir("a", "a"), "out of order"},
		{"order of paths is by component", dir("a", "a.b", "a/b"), "out of order"},
		{"two dots", dir("a/../b"), "not clean"},
		{"absolute", dir("/a"), "empty component"},
		{"trailing slash", dir("a/"), "empty component"},
		{"NUL", dir("a\x00b"), "NUL"},
		{"long name", dir(strings.Repeat("x", 256)), "too long"},
		{"long path", dir(strings.Repeat("x/", 2048) + "x"), "too long"},
		{"no type", []snapshot.Entry{{Path: "a"}}, "unknown type 0"},
		{"type 6", []snapshot.Entry{{Path: "a", Type: 6}}, "unknown type 6"},
		{"mode bits", file(func(e *snapshot.Entry) { e.Mode = 0o100644 }), "not kept"},
		{"linked directory", []snapshot.Entry{{Path: "a", Type: snapshot.TypeDir, Link: "a"}}, "two names"},
		{"link to a later name", file(func(e *snapshot.Entry) { e.Link = "g" }), "not the first"},
		{"chunk behind the end", file(func(e *snapshot.Entry) { e.Size = 9 }), "does not fit"},
		{"chunks overlap", file(func(e *snapshot.Entry) { e.Chunks = append(e.Chunks, snapshot.Chunk{Off: 5, Len: 1}) }), "does not fit"},
		{"empty chunk", file(func(e *snapshot.Entry) { e.Chunks[0].Len = 0 }), "does not fit"},
		{"chunk too long", file(func(e *snapshot.Entry) {
			e.Size, e.Chunks[0].Len = 1<<30, snapshot.MaxChunkBytes+1
		}), "does not fit"},
		{"offset overflows", file(func(e *snapshot.Entry) { e.Chunks[0].Off = 1<<63 - 5 }), "does not fit"},
		{"target of a file", file(func(e *snapshot.Entry) { e.Target = "x" }), "can't have a target"},
		{"size of a fifo", []snapshot.Entry{{Path: "a", Type: snapshot.TypeFifo, Size: 1}}, "can't have content"},
		{"symlink to nothing", []snapshot.Entry{{Path: "a", Type: snapshot.TypeSymlink}}, "without a target"},
		{"xattrs out of order", file(func(e *snapshot.Entry) {
			e.Xattrs = []snapshot.Xattr{{Name: "user.b"}, {Name: "user.a"}}
		}), "out of order"},
		{"xattr too large", file(func(e *snapshot.Entry) {
			e.Xattrs = []snapshot.Xattr{{Name: "user.b", Value: make([]byte, snapshot.MaxXattrBytes+1)}}
		}), "more than"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := ManifestDigest(&snapshot.Manifest{Entries: c.entries})
			require.ErrorContains(t, err, c.want)
		})
	}
}

func smallManifest() *snapshot.Manifest {
	return &snapshot.Manifest{Entries: []snapshot.Entry{
		{Type: snapshot.TypeDir, Mode: 0o755, MTime: 1},
		{Path: "bin", Type: snapshot.TypeDir, Mode: 0o755, MTime: -2},
		{
			Path: "bin/tool", Type: snapshot.TypeFile, Mode: 0o755, MTime: 3, Size: 70000, Link: "bin/tool",
			Chunks: []snapshot.Chunk{{Len: 65536, ID: sha256.Sum256([]byte("1"))}},
		},
		{
			Path: "bin/tool2", Type: snapshot.TypeFile, Mode: 0o755, MTime: 3, Size: 70000, Link: "bin/tool",
			Chunks: []snapshot.Chunk{{Len: 65536, ID: sha256.Sum256([]byte("1"))}},
		},
		{
			Path: "link", Type: snapshot.TypeSymlink, Mode: 0o777, UID: 5, Target: "bin/tool",
			Xattrs: []snapshot.Xattr{{Name: "user.x", Value: []byte("y")}},
		},
	}}
}

func requireCorrupt(t require.TestingT, err error, args ...any) {
	var c *snapshot.CorruptError
	require.ErrorAs(t, err, &c, args...)
}

func TestManifestDamage(t *testing.T) {
	b, _ := encodeManifest(t, smallManifest())
	read := func(b []byte) error {
		_, _, err := ReadManifest(bytes.NewReader(b))
		return err
	}
	require.NoError(t, read(b))
	for i := range b {
		for bit := range 8 {
			d := bytes.Clone(b)
			d[i] ^= 1 << bit
			err := read(d)
			if i == len(manifestMagic) && d[i] > manifestV1 {
				require.ErrorIs(t, err, snapshot.ErrNewerFormat)
				continue
			}
			requireCorrupt(t, err, "byte %d bit %d", i, bit)
		}
		requireCorrupt(t, read(b[:i]), "cut at %d", i)
	}
	requireCorrupt(t, read(append(bytes.Clone(b), 0)))
	requireCorrupt(t, read(reseal(append(b[:len(b)-32:len(b)-32], 0))), "bytes behind the last entry")
}

// reseal gives bytes that have none a right trailer, as an attacker would.
func reseal(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(bytes.Clone(b), sum[:]...)
}

// One tree has one encoding: every other way to say the same is refused.
func TestManifestOnlyCanonical(t *testing.T) {
	head := append([]byte(manifestMagic), manifestV1)
	raw := func(parts ...any) []byte {
		b := bytes.Clone(head)
		for _, p := range parts {
			switch p := p.(type) {
			case int:
				b = append(b, byte(p))
			case string:
				b = append(b, p...)
			case []byte:
				b = append(b, p...)
			}
		}
		return reseal(b)
	}
	const dir = kindMode | kindOwner | 1
	long := binary.AppendUvarint(nil, 1)
	long[0] |= 0x80
	long = append(long, 0)
	cases := []struct {
		name string
		b    []byte
		want string
	}{
		{"good", raw(2, 0, 1, "a", dir, 0, 0, 1, "b", dir, 0), ""},
		{"good, shared", raw(2, 0, 2, "aa", dir, 0, 1, 1, "b", dir, 0), ""},
		{"long varint", raw(long, 0, 1, "a", dir, 0), "shortest"},
		{"shares less than it could", raw(2, 0, 2, "aa", dir, 0, 0, 2, "ab", dir, 0), "shares more"},
		{"shares more than there is", raw(2, 0, 1, "a", dir, 0, 2, 1, "b", dir, 0), "shared length"},
		{"same mode told", raw(1, 0, 1, "a", dir&^kindMode, 0, 0), "mode told twice"},
		{"same owner told", raw(1, 0, 1, "a", dir&^kindOwner, 0, 0, 0), "owner told twice"},
		{"empty xattrs", raw(1, 0, 1, "a", dir|kindXattr, 0, 0), "empty list"},
		{"link to itself", raw(1, 0, 1, "a", kindMode|kindOwner|linkOther|5, 0, 1, 0), "long form"},
		{"root linked to itself", raw(1, 0, 0, kindMode|kindOwner|linkSelf|1, 0), "link to the root"},
		{"link to the root", raw(1, 0, 1, "a", kindMode|kindOwner|linkOther|5, 0, 0, 0), "link to the root"},
		{"link of another kind", raw(1, 0, 1, "a", kindMode|kindOwner|kindLink|5, 0), "unknown kind of link"},
		{"unknown type", raw(1, 0, 1, "a", kindMode|kindOwner|6, 0), "unknown type"},
		{"count lies high", raw(3, 0, 1, "a", dir, 0, 0, 1, "b", dir, 0), ""},
		{"count lies higher", raw(200, 1, 0, 1, "a", dir, 0), "number of entries"},
		{"count lies low", raw(1, 0, 1, "a", dir, 0, 0, 1, "b", dir, 0), "too many"},
		{"path twice", raw(2, 0, 1, "a", dir, 0, 1, 0, dir, 0), "out of order"},
		{"number too large", raw(1, 0, 1, "a", dir&^kindMode, bytes.Repeat([]byte{0xff}, 9), 0x7f, 0), "64 bits"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := ReadManifest(bytes.NewReader(c.b))
			switch {
			case c.name == "count lies high":
				requireCorrupt(t, err)
			case c.want == "":
				require.NoError(t, err)
			default:
				requireCorrupt(t, err)
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestManifestSize(t *testing.T) {
	m := &snapshot.Manifest{Entries: []snapshot.Entry{{Type: snapshot.TypeDir}}}
	for i := range 1000 {
		m.Entries = append(m.Entries, snapshot.Entry{
			Path: fmt.Sprintf("some/directory/with/a/long/name/file-%04d", i),
			Type: snapshot.TypeFile, Size: 1000, MTime: int64(i) * 1e6, Chunks: []snapshot.Chunk{{Len: 1000}},
		})
	}
	b, _ := encodeManifest(t, m)
	require.Less(t, len(b)/1000, 60, "bytes per entry, 32 of them the chunk's id")
}
