package tree

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// valid is a manifest with one of each.
func valid(t testing.TB) *snapshot.Manifest {
	m := mk(t, "d/ k:v", "d/f=12345678", "l->x", "p|", "x=1 &g", "y=1 &g", "z=")
	e, _ := m.Find("d/f")
	e.Chunks = []snapshot.Chunk{{Off: 1, Len: 2, ID: textID("a")}, {Off: 3, Len: 5, ID: textID("b")}}
	require.NoError(t, Validate(m))
	return m
}

// faults are single lies about a valid manifest: what Validate says must name the
// path and the reason.
var faults = []struct {
	name, path, why string
	// lie changes the entry at path; nil takes it away.
	lie func(e *snapshot.Entry)
	// notInChanges: what only the whole tree shows.
	notInChanges bool
}{
	{"no root", "", "root directory must be there", nil, true},
	{"root not a directory", "", "", func(e *snapshot.Entry) { e.Type = snapshot.TypeFifo }, false},
	{"no parent", "d", "not a directory", nil, true},
	{"parent is a file", "d", "", func(e *snapshot.Entry) { e.Type = snapshot.TypeFile }, false},
	{"parent is a symlink", "d", "", func(e *snapshot.Entry) { e.Type, e.Target = snapshot.TypeSymlink, "/etc" }, false},
	{"dotdot", "p", ". or ..", func(e *snapshot.Entry) { e.Path = "m/../p" }, false},
	{"dotdot alone", "p", ". or ..", func(e *snapshot.Entry) { e.Path = ".." }, false},
	{"dot", "p", ". or ..", func(e *snapshot.Entry) { e.Path = "p/." }, false},
	{"absolute", "p", "absolute", func(e *snapshot.Entry) { e.Path = "/p" }, false},
	{"trailing slash", "p", "empty component", func(e *snapshot.Entry) { e.Path = "p/" }, false},
	{"empty component", "p", "empty component", func(e *snapshot.Entry) { e.Path = "p//q" }, false},
	{"NUL", "p", "NUL", func(e *snapshot.Entry) { e.Path = "p\x00" }, false},
	{"long component", "p", "256 bytes", func(e *snapshot.Entry) { e.Path = strings.Repeat("p", 256) }, false},
	{"long path", "p", "4097 bytes", func(e *snapshot.Entry) { e.Path = strings.Repeat("p/", 2048) + "p" }, false},
	{"twice", "p", "listed twice", func(e *snapshot.Entry) { e.Path = "l" }, false},
	{"not sorted", "p", "not sorted", func(e *snapshot.Entry) { e.Path = "a" }, false},
	{"type 0", "p", "type 0", func(e *snapshot.Entry) { e.Type = 0 }, false},
	{"type 6", "p", "type 6", func(e *snapshot.Entry) { e.Type = 6 }, false},
	{"mode", "p", "mode", func(e *snapshot.Entry) { e.Mode = 0o10644 }, false},
	{"owner", "p", "owner", func(e *snapshot.Entry) { e.UID = math.MaxUint32 }, false},
	{"group", "p", "owner", func(e *snapshot.Entry) { e.GID = math.MaxUint32 }, false},
	{"negative size", "z", "-1 bytes", func(e *snapshot.Entry) { e.Size = -1 }, false},
	{"size of a fifo", "p", "fifo of 1 bytes", func(e *snapshot.Entry) { e.Size = 1 }, false},
	{"sizes overflow", "z", "2^63", func(e *snapshot.Entry) { e.Size = math.MaxInt64 }, true},
	{"target of a file", "z", "with a target", func(e *snapshot.Entry) { e.Target = "x" }, false},
	{"no target", "l", "without a target", func(e *snapshot.Entry) { e.Target = "" }, false},
	{"long target", "l", "4096 bytes", func(e *snapshot.Entry) { e.Target = strings.Repeat("x", 4096) }, false},
	{"NUL in a target", "l", "NUL", func(e *snapshot.Entry) { e.Target = "x\x00" }, false},
	{"foreign attribute", "d", "not allowed", func(e *snapshot.Entry) { e.Xattrs[0].Name = "trusted.overlay.opaque" }, false},
	{"capability", "d", "not allowed", func(e *snapshot.Entry) { e.Xattrs[0].Name = "security.capability" }, false},
	{"attribute without a name", "d", "not allowed", func(e *snapshot.Entry) { e.Xattrs[0].Name = "user." }, false},
	{"attribute with a NUL", "d", "no file can have", func(e *snapshot.Entry) { e.Xattrs[0].Name = "user.a\x00b" }, false},
	{"long attribute name", "d", "no file can have", func(e *snapshot.Entry) { e.Xattrs[0].Name = "user." + strings.Repeat("x", 251) }, false},
	{"attribute twice", "d", "out of order", func(e *snapshot.Entry) { e.Xattrs = append(e.Xattrs, e.Xattrs[0]) }, false},
	{"large attribute", "d", "65537 bytes", func(e *snapshot.Entry) { e.Xattrs[0].Value = make([]byte, 1<<16+1) }, false},
	{"many attributes", "d", "257 attributes", func(e *snapshot.Entry) { e.Xattrs = make([]snapshot.Xattr, 257) }, false},
	{"content of a fifo", "p", "with content", func(e *snapshot.Entry) { e.Chunks = make([]snapshot.Chunk, 1) }, false},
	{"chunk behind the end", "d/f", "of a file of 8", func(e *snapshot.Entry) { e.Chunks[1].Len = 6 }, false},
	{"chunk far behind the end", "d/f", "of a file of 8", func(e *snapshot.Entry) { e.Chunks[1].Off = math.MaxInt64 }, false},
	{"chunk before the start", "d/f", "before the end", func(e *snapshot.Entry) { e.Chunks[0].Off = -1 }, false},
	{"chunks overlap", "d/f", "before the end", func(e *snapshot.Entry) { e.Chunks[1].Off = 2 }, false},
	{"empty chunk", "d/f", "0 bytes", func(e *snapshot.Entry) { e.Chunks[0].Len = 0 }, false},
	{"negative chunk", "d/f", "-1 bytes", func(e *snapshot.Entry) { e.Chunks[0].Len = -1 }, false},
	{"large chunk", "d/f", "4194305 bytes", func(e *snapshot.Entry) { e.Size, e.Chunks[1].Len = 1<<30, 4<<20+1 }, false},
	{"nameless chunk", "d/f", "without an id", func(e *snapshot.Entry) { e.Chunks[0].ID = snapshot.Digest{} }, false},
	{"link of a fifo", "p", "hard-linked fifo", func(e *snapshot.Entry) { e.Link = "p" }, false},
	{"link to nothing", "z", "not the first name", func(e *snapshot.Entry) { e.Link = "nothing" }, true},
	{"link to a later name", "z", "not the first name", func(e *snapshot.Entry) { e.Link = "zz" }, true},
	{"link to a second name", "z", "not the first name", func(e *snapshot.Entry) { e.Link = "y" }, true},
	{"link out", "z", "not the first name", func(e *snapshot.Entry) { e.Link = "../../etc/passwd" }, true},
	{"link to another file", "z", "says otherwise", func(e *snapshot.Entry) { e.Link = "x" }, true},
	{"link of another mode", "y", "says otherwise", func(e *snapshot.Entry) { e.Mode = 0o600 }, true},
	{"link of another time", "y", "says otherwise", func(e *snapshot.Entry) { e.MTime++ }, true},
	{"link of other content", "y", "says otherwise", func(e *snapshot.Entry) { e.Chunks[0].ID[0]++ }, true},
	{"group of one", "y", "one name", func(e *snapshot.Entry) { e.Link = "" }, true},
	{"group of none", "x", "not the first name", nil, true},
}

func TestValidate(t *testing.T) {
	for _, c := range faults {
		t.Run(c.name, func(t *testing.T) {
			m := valid(t)
			i, ok := find(m.Entries, c.path)
			require.True(t, ok)
			if c.lie == nil {
				m.Entries = append(m.Entries[:i], m.Entries[i+1:]...)
			} else {
				c.lie(&m.Entries[i])
			}
			var ce *snapshot.CorruptError
			err := Validate(m)
			require.ErrorAs(t, err, &ce)
			require.ErrorContains(t, err, c.why)
			ch := Diff(nil, m)
			err = ValidateChanges(ch)
			if !c.notInChanges {
				require.ErrorAs(t, err, &ce)
				require.ErrorContains(t, err, c.why)
			}
			got, err := Apply(nil, ch)
			if err == nil { // what Apply lets through it has put right
				for _, e := range got.Entries {
					if e.Link != "" {
						_, ok := got.Find(e.Link)
						require.True(t, ok)
					}
				}
			}
		})
	}
	require.Error(t, Validate(nil))
	require.Error(t, Validate(&snapshot.Manifest{}))
}

func TestValidateChanges(t *testing.T) {
	file := func(p string) snapshot.Change {
		return snapshot.Change{Entry: snapshot.Entry{Path: p, Type: snapshot.TypeFile}}
	}
	dir := func(p string) snapshot.Change {
		return snapshot.Change{Entry: snapshot.Entry{Path: p, Type: snapshot.TypeDir}}
	}
	del := func(p string) snapshot.Change {
		return snapshot.Change{Delete: true, Entry: snapshot.Entry{Path: p}}
	}
	for _, c := range []struct {
		name, why string
		ch        []snapshot.Change
	}{
		{"nothing", "", nil},
		{"plain", "", []snapshot.Change{dir(""), dir("a"), file("a/b"), file("a-b"), del("c")}},
		{"below a deleted path", "stands below", []snapshot.Change{del("a"), file("a/b")}},
		{"deep below a deleted path", "stands below", []snapshot.Change{del("a"), del("a/b/c")}},
		{"below a file", "stands below", []snapshot.Change{file("a"), file("a/b")}},
		{"beside a deleted path", "", []snapshot.Change{del("a"), file("a-b"), file("ab")}},
		{"root deleted", "the root is deleted", []snapshot.Change{del("")}},
		{"root a file", "the root is not a directory", []snapshot.Change{file("")}},
		{"deleted out", ". or ..", []snapshot.Change{del("../x")}},
		{"deleted and replaced", "both", []snapshot.Change{{Delete: true, Replace: true, Entry: snapshot.Entry{Path: "a"}}}},
		{"root replaced", "root", []snapshot.Change{{Replace: true, Entry: dir("").Entry}}},
		{"file replaced", "only a directory", []snapshot.Change{{Replace: true, Entry: file("a").Entry}}},
		{"directory replaced", "", []snapshot.Change{{Replace: true, Entry: dir("a").Entry}, file("a/b")}},
		{"twice", "twice", []snapshot.Change{file("a"), del("a")}},
		{"not sorted", "not sorted", []snapshot.Change{file("a-b"), file("a/b")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := ValidateChanges(c.ch)
			if c.why == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.why)
			_, err = Apply(mk(t, "a/x=1"), c.ch)
			require.ErrorContains(t, err, c.why)
		})
	}
}
