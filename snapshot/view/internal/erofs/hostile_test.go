package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// writeOne writes a tree of entries, the last one with c.
func writeOne(t testing.TB, c Content, entries ...snapshot.Entry) (*memory, error) {
	m := &memory{}
	_, err := Write(t.Context(), m, Options{Devices: []string{"a", "b"}}, func(visit func(*snapshot.Entry, Content) error) error {
		for i := range entries {
			at := Content{}
			if i == len(entries)-1 {
				at = c
			}
			if err := visit(&entries[i], at); err != nil {
				return err
			}
		}
		return nil
	})
	return m, err
}

// Manifests and places that must be refused, with a word of the reason.
func TestRefused(t *testing.T) {
	root := with("", snapshot.TypeDir, nil)
	dir, fifo := func(p string) snapshot.Entry { return with(p, snapshot.TypeDir, nil) }, func(p string) snapshot.Entry { return with(p, snapshot.TypeFifo, nil) }
	file := func(f func(*snapshot.Entry)) snapshot.Entry { return with("f", snapshot.TypeFile, f) }
	sized := func(n int64) snapshot.Entry { return file(func(e *snapshot.Entry) { e.Size = n }) }
	link := func(target string) snapshot.Entry {
		return with("l", snapshot.TypeSymlink, func(e *snapshot.Entry) { e.Target = target })
	}
	attr := func(typ snapshot.Type, x ...snapshot.Xattr) snapshot.Entry {
		return with("x", typ, func(e *snapshot.Entry) {
			e.Xattrs = x
			e.Target = map[bool]string{true: "t"}[typ == snapshot.TypeSymlink]
		})
	}
	linked := func(p, first string, f func(*snapshot.Entry)) snapshot.Entry {
		e := with(p, snapshot.TypeFile, f)
		e.Link = first
		return e
	}
	ext := func(x ...Extent) Content { return Content{Extents: x} }
	badACL := acl(3)
	badACL[4] = 99

	cases := []struct {
		name, says string
		c          Content
		entries    []snapshot.Entry
	}{
		{"nothing", "no entries", Content{}, nil},
		{"no root", "root comes first", Content{}, []snapshot.Entry{dir("a")}},
		{"root is a file", "root comes first", Content{}, []snapshot.Entry{with("", snapshot.TypeFile, nil)}},
		{"root is linked", "root comes first", Content{}, []snapshot.Entry{with("", snapshot.TypeDir, func(e *snapshot.Entry) { e.Link = "a" })}},
		{"two roots", "root comes first", Content{}, []snapshot.Entry{root, root}},
		{"root later", "root comes first", Content{}, []snapshot.Entry{root, dir("a"), root}},
		{"twice", "behind \"a\"", Content{}, []snapshot.Entry{root, fifo("a"), fifo("a")}},
		{"not sorted", "behind \"b\"", Content{}, []snapshot.Entry{root, fifo("b"), fifo("a")}},
		{"sorted as strings", "missing or not before", Content{}, []snapshot.Entry{root, dir("a"), dir("a-"), fifo("a/b")}},
		{"no directory", "missing or not before", Content{}, []snapshot.Entry{root, fifo("a/b")}},
		{"below a file", "missing or not before", Content{}, []snapshot.Entry{root, fifo("a"), fifo("a/b")}},
		{"absolute", "missing or not before", Content{}, []snapshot.Entry{root, fifo("/a")}},
		{"dot", "not a name", Content{}, []snapshot.Entry{root, fifo(".")}},
		{"parent", "not a name", Content{}, []snapshot.Entry{root, dir("a"), fifo("a/..")}},
		{"empty name", "not a name", Content{}, []snapshot.Entry{root, dir("a"), fifo("a/")}},
		{"NUL", "not a name", Content{}, []snapshot.Entry{root, fifo("a\x00")}},
		{"long name", "not a name", Content{}, []snapshot.Entry{root, fifo(strings.Repeat("x", 256))}},
		{"long path", "path of", Content{}, []snapshot.Entry{root, fifo(strings.Repeat("x", 5000))}},
		{"type 0", "unknown type", Content{}, []snapshot.Entry{root, with("a", 0, nil)}},
		{"type 99", "unknown type", Content{}, []snapshot.Entry{root, with("a", 99, nil)}},
		{"device by mode", "mode", Content{}, []snapshot.Entry{root, file(func(e *snapshot.Entry) { e.Mode = 0o20644 })}},
		{"negative size", "size -1", Content{}, []snapshot.Entry{root, sized(-1)}},
		{"size of a fifo", "size 1 of a fifo", Content{}, []snapshot.Entry{root, with("a", snapshot.TypeFifo, func(e *snapshot.Entry) { e.Size = 1 })}},
		{"target of a file", "with a target", Content{}, []snapshot.Entry{root, file(func(e *snapshot.Entry) { e.Target = "x" })}},
		{"no target", "target", Content{}, []snapshot.Entry{root, link("")}},
		{"NUL in a target", "target", Content{}, []snapshot.Entry{root, link("a\x00b")}},
		{"long target", "target", Content{}, []snapshot.Entry{root, link(strings.Repeat("x", 4096))}},
		{"linked directory", "hard link to a directory", Content{}, []snapshot.Entry{root, with("a", snapshot.TypeDir, func(e *snapshot.Entry) { e.Link = "a" })}},
		{"link to nothing", "not a first name", Content{}, []snapshot.Entry{root, linked("a", "b", nil)}},
		{"link to a later name", "not a first name", Content{}, []snapshot.Entry{root, linked("a", "b", nil), linked("b", "b", nil)}},
		{"links unlike in mode", "not alike", Content{}, []snapshot.Entry{root, linked("a", "a", nil), linked("b", "a", func(e *snapshot.Entry) { e.Mode = 1 })}},
		{"links unlike in time", "not alike", Content{}, []snapshot.Entry{root, linked("a", "a", nil), linked("b", "a", func(e *snapshot.Entry) { e.MTime++ })}},
		{"links unlike in type", "not alike", Content{}, []snapshot.Entry{root, linked("a", "a", nil), linked("b", "a", func(e *snapshot.Entry) { e.Type = snapshot.TypeSocket })}},
		{"links unlike in size", "not alike", Content{}, []snapshot.Entry{root, linked("a", "a", nil), linked("b", "a", func(e *snapshot.Entry) { e.Size = 1 })}},
		{"links unlike in attributes", "not alike", Content{}, []snapshot.Entry{root, linked("a", "a", nil), linked("b", "a", func(e *snapshot.Entry) { e.Xattrs = []snapshot.Xattr{{Name: "user.a"}} })}},
		{"overlay's attribute", "not one that", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "trusted.overlay.redirect", Value: []byte("/x")})}},
		{"capability", "not one that", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "security.capability"})}},
		{"bare prefix", "not one that", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "user."})}},
		{"no name", "not one that", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: ""})}},
		{"long attribute", "not a name", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "user." + strings.Repeat("x", 251)})}},
		{"NUL in an attribute", "not a name", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "user.\x00"})}},
		{"attribute twice", "not unique", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: "user.a"}, snapshot.Xattr{Name: "user.a"})}},
		{"attribute of a symlink", "not on a symlink", Content{}, []snapshot.Entry{root, attr(snapshot.TypeSymlink, snapshot.Xattr{Name: "user.a"})}},
		{"attribute of a fifo", "not on a fifo", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFifo, snapshot.Xattr{Name: "user.a"})}},
		{"default ACL of a file", "not one that", Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLDefault, Value: acl(1)})}},
		{"empty ACL", errACL.Error(), Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLAccess})}},
		{"ACL of nobody", errACL.Error(), Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLAccess, Value: acl(noID)})}},
		{"ACL with a bad tag", errACL.Error(), Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLAccess, Value: badACL})}},
		{"ACL cut short", errACL.Error(), Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLAccess, Value: acl(1)[:30]})}},
		{"ACL without a mask", errACL.Error(), Content{}, []snapshot.Entry{root, attr(snapshot.TypeFile, snapshot.Xattr{Name: nameACLAccess, Value: bytes.Replace(acl(1), []byte{aclMask, 0, 7, 0, 255, 255, 255, 255}, nil, 1)})}},
		{"content of a fifo", "content of a fifo", ext(Extent{Len: 1}), []snapshot.Entry{root, fifo("a")}},
		{"no place", "no place is given", Content{}, []snapshot.Entry{root, sized(1)}},
		{"place for a part", "no place is given", ext(Extent{Len: 512}), []snapshot.Entry{root, sized(513)}},
		{"place but for a chunk", "no place is given", Content{}, []snapshot.Entry{root, file(func(e *snapshot.Entry) { e.Size = 9; e.Chunks = []snapshot.Chunk{{Off: 3, Len: 1}} })}},
		{"chunk too far", "beyond the size", Content{}, []snapshot.Entry{root, file(func(e *snapshot.Entry) { e.Size = 9; e.Chunks = []snapshot.Chunk{{Off: 9, Len: 1}} })}},
		{"chunk wraps", "beyond the size", Content{}, []snapshot.Entry{root, file(func(e *snapshot.Entry) {
			e.Size = 9
			e.Chunks = []snapshot.Chunk{{Off: 1, Len: math.MaxInt64}}
		})}},
		{"extents of an empty file", "empty file", ext(Extent{Len: 1}), []snapshot.Entry{root, sized(0)}},
		{"extent too long", "beyond the size", ext(Extent{Len: 3}), []snapshot.Entry{root, sized(2)}},
		{"extent wraps", "beyond the size", ext(Extent{Off: 512, Len: math.MaxInt64}), []snapshot.Entry{root, sized(1024)}},
		{"extent empty", "beyond the size", ext(Extent{}), []snapshot.Entry{root, sized(2)}},
		{"extents overlap", "not in order", ext(Extent{Len: 1024}, Extent{Off: 512, Len: 512}), []snapshot.Entry{root, sized(1024)}},
		{"extent askew in the device", "not aligned", ext(Extent{Len: 2, At: 1}), []snapshot.Entry{root, sized(2)}},
		{"extent askew in the file", "not aligned", ext(Extent{Len: 100}, Extent{Off: 100, Len: 100}), []snapshot.Entry{root, sized(200)}},
		{"extent before its device", "extent at -512", ext(Extent{Len: 2, At: -512}), []snapshot.Entry{root, sized(2)}},
		{"device too high", "device 2 of 2", ext(Extent{Len: 2, Device: 2}), []snapshot.Entry{root, sized(2)}},
		{"device negative", "device -1 of 2", ext(Extent{Len: 2, Device: -1}), []snapshot.Entry{root, sized(2)}},
		{"relative object", "not an absolute path", Content{Object: "ab/c"}, []snapshot.Entry{root, sized(2)}},
		{"object with dots", "not a clean path", Content{Object: "/ab/../c"}, []snapshot.Entry{root, sized(2)}},
		{"object with slashes", "not a clean path", Content{Object: "//c"}, []snapshot.Entry{root, sized(2)}},
		{"object is a directory", "not a clean path", Content{Object: "/c/"}, []snapshot.Entry{root, sized(2)}},
		{"object and extents", "both", Content{Object: "/a/b", Extents: []Extent{{Len: 2}}}, []snapshot.Entry{root, sized(2)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := writeOne(t, c.c, c.entries...)
			require.ErrorContains(t, err, c.says)
			require.NotErrorIs(t, err, ErrTooLarge)
			_, err = Open(m)
			require.ErrorIs(t, err, ErrNotImage, "and what was written can't be mounted")
		})
	}
}

// Entries that are in order but that no image can hold.
func TestTooLarge(t *testing.T) {
	root := with("", snapshot.TypeDir, nil)
	sized := func(n int64) snapshot.Entry {
		return with("f", snapshot.TypeFile, func(e *snapshot.Entry) { e.Size = n; e.Chunks = []snapshot.Chunk{} })
	}
	cases := map[string]struct {
		c Content
		e snapshot.Entry
	}{
		"hole beyond 64 PiB":   {Content{}, sized(math.MaxInt64)},
		"awkward sparse file":  {Content{Extents: []Extent{{Off: 512, Len: 512}}}, sized(1 << 40)},
		"extent beyond 2 TiB":  {Content{Extents: []Extent{{Len: 512, At: 1 << 41}}}, sized(512)},
		"extent far beyond":    {Content{Extents: []Extent{{Len: 512, At: math.MaxInt64 &^ 511}}}, sized(512)},
		"extent ends too late": {Content{Extents: []Extent{{Len: 1 << 41}}}, sized(1 << 42)},
		"large attribute": {Content{}, with("f", snapshot.TypeFile, func(e *snapshot.Entry) {
			e.Xattrs = []snapshot.Xattr{{Name: "user.a", Value: make([]byte, 1<<16)}}
		})},
		"nobody's":   {Content{}, with("f", snapshot.TypeFile, func(e *snapshot.Entry) { e.UID = noID })},
		"no group's": {Content{}, with("f", snapshot.TypeFile, func(e *snapshot.Entry) { e.GID = noID })},
		"long object": {
			Content{Object: strings.Repeat("/"+strings.Repeat("x", 127), 32)}, sized(2),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := writeOne(t, c.c, root, c.e)
			require.ErrorIs(t, err, ErrTooLarge)
			var ee *EntryError
			require.ErrorAs(t, err, &ee)
			require.Equal(t, "f", ee.Path)
		})
	}
}

func TestOptionsRefused(t *testing.T) {
	tree := Entries(&snapshot.Manifest{Entries: []snapshot.Entry{with("", snapshot.TypeDir, nil)}}, nil)
	for name, o := range map[string]Options{
		"blocks too small": {BlockBits: 8},
		"blocks too large": {BlockBits: 13},
		"no tag":           {Devices: []string{""}},
		"long tag":         {Devices: []string{strings.Repeat("x", 65)}},
		"NUL in a tag":     {Devices: []string{"a\x00b"}},
		"too many devices": {Devices: make([]string, maxDevices+1)},
		"base is no image": {Base: &memory{}},
	} {
		_, err := Write(t.Context(), &memory{}, o, tree)
		require.Error(t, err, name)
	}
	_, err := Write(t.Context(), &memory{}, Options{Base: &memory{b: make([]byte, 9000)}}, tree)
	require.ErrorIs(t, err, ErrBase)
}

// A tree that says something else the second time is noticed.
func TestTreeThatChanges(t *testing.T) {
	root := with("", snapshot.TypeDir, nil)
	link := func(n int) snapshot.Entry {
		return with("l", snapshot.TypeSymlink, func(e *snapshot.Entry) { e.Target = strings.Repeat("x", n) })
	}
	fifo := with("l", snapshot.TypeFifo, func(e *snapshot.Entry) { e.Link = "l" })
	other := with("m", snapshot.TypeFifo, func(e *snapshot.Entry) { e.Link = "l" })
	for name, walks := range map[string][2][]snapshot.Entry{
		"fewer":       {{root, link(1)}, {root}},
		"more":        {{root}, {root, link(1)}},
		"larger":      {{root, link(1)}, {root, link(100)}},
		"not inline":  {{root, link(1)}, {root, link(500)}},
		"not a link":  {{root, fifo, other}, {root, fifo, with("m", snapshot.TypeFifo, nil)}},
		"now a link":  {{root, fifo, with("m", snapshot.TypeFifo, nil)}, {root, fifo, other}},
		"other order": {{root, link(1), other}, {root, other}},
	} {
		n := 0
		_, err := Write(t.Context(), &memory{}, Options{}, func(visit func(*snapshot.Entry, Content) error) error {
			for _, e := range walks[min(n, 1)] {
				if err := visit(&e, Content{}); err != nil {
					return err
				}
			}
			n++
			return nil
		})
		require.Error(t, err, name)
	}
}

type failing struct {
	memory
	after int
}

var errFull = errors.New("disk full")

func (f *failing) WriteAt(p []byte, off int64) (int, error) {
	if f.after--; f.after < 0 {
		return 0, errFull
	}
	return f.memory.WriteAt(p, off)
}

// Whichever write fails, Write says so and what is there can't be mounted.
func TestEveryWriteMayFail(t *testing.T) {
	w := newWorld(t, 1)
	for i := range 3000 {
		w.add(with(fmt.Sprintf("%05d", i), snapshot.TypeSymlink, func(e *snapshot.Entry) { e.Target = strings.Repeat("x", 600) }))
	}
	for n := 0; ; n++ {
		f := &failing{after: n}
		_, err := Write(t.Context(), f, w.options(), w.tree())
		if err == nil {
			require.Greater(t, n, 2)
			require.NoError(t, verify(f))
			return
		}
		require.ErrorIs(t, err, errFull)
		_, err = Open(f)
		require.ErrorIs(t, err, ErrNotImage)
	}
}

func TestWriteEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Write(ctx, &memory{}, Options{}, Entries(&snapshot.Manifest{Entries: []snapshot.Entry{with("", snapshot.TypeDir, nil)}}, nil))
	require.ErrorIs(t, err, context.Canceled)
}
