package snapshot

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestDigestText(t *testing.T) {
	d := Digest{0xab, 31: 0xcd}
	p, err := ParseDigest(d.String())
	require.NoError(t, err)
	require.Equal(t, d, p)
	b, err := json.Marshal(struct{ A, B Digest }{A: d})
	require.NoError(t, err)
	require.JSONEq(t, `{"A":"`+d.String()+`","B":""}`, string(b))
	var back struct{ A, B Digest }
	require.NoError(t, json.Unmarshal(b, &back))
	require.Equal(t, d, back.A)
	require.True(t, back.B.IsZero())
	for _, bad := range []string{"", "ab", strings.Repeat("A", 64), strings.Repeat("g", 64), strings.Repeat("a", 65)} {
		_, err := ParseDigest(bad)
		require.Error(t, err, "%q", bad)
	}
}

func TestIDs(t *testing.T) {
	id, err := NewID(bytes.NewReader(bytes.Repeat([]byte{0}, 18)))
	require.NoError(t, err)
	require.Equal(t, ID(strings.Repeat("0", 26)), id)
	rapid.Check(t, func(t *rapid.T) {
		id, err := NewID(bytes.NewReader(rapid.SliceOfN(rapid.Byte(), 18, 18).Draw(t, "random")))
		require.NoError(t, err)
		_, err = ParseID(string(id))
		require.NoError(t, err, id)
	})
	_, err = NewID(strings.NewReader("short"))
	require.Error(t, err)
	for _, bad := range []string{"", "x", strings.Repeat("A", 26), "../../../../../../../../etc", strings.Repeat("a", 25) + "/"} {
		_, err := ParseID(bad)
		require.ErrorIs(t, err, ErrBadID, "%q", bad)
	}
}

// byComponents is the order of a manifest as the documentation says it.
func byComponents(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func TestComparePathsIsByComponents(t *testing.T) {
	name := rapid.StringOfN(rapid.RuneFrom([]rune("a!-./~")), 1, 6, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		require.Equal(t, sign(byComponents(a, b)), sign(ComparePaths(a, b)), "%q %q", a, b)
	})
	require.Negative(t, ComparePaths("", "a"))
	require.Negative(t, ComparePaths("a/b", "a-b"), "what is in a directory stands right behind it")
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

func TestFindAndUnder(t *testing.T) {
	m := &Manifest{}
	for _, p := range []string{"", "a", "a/x", "a/x/y", "a-b", "ab", "b"} {
		m.Entries = append(m.Entries, Entry{Path: p})
	}
	require.True(t, slices.IsSortedFunc(m.Entries, func(a, b Entry) int { return ComparePaths(a.Path, b.Path) }))
	for _, e := range m.Entries {
		got, ok := m.Find(e.Path)
		require.True(t, ok)
		require.Equal(t, e.Path, got.Path)
	}
	_, ok := m.Find("a/")
	require.False(t, ok)
	paths := func(list []Entry) (out []string) {
		for _, e := range list {
			out = append(out, e.Path)
		}
		return out
	}
	require.Equal(t, []string{"a/x", "a/x/y"}, paths(m.Under("a")))
	require.Equal(t, []string{"a/x/y"}, paths(m.Under("a/x")))
	require.Empty(t, m.Under("b"))
	require.Empty(t, m.Under("nowhere"))
	require.Len(t, m.Under(""), 6)
}

func TestBytesCountsALinkedFileOnce(t *testing.T) {
	m := &Manifest{Entries: []Entry{
		{Path: ""},
		{Path: "a", Type: TypeFile, Size: 10, Link: "a"},
		{Path: "b", Type: TypeFile, Size: 10, Link: "a"},
		{Path: "c", Type: TypeFile, Size: 5},
	}}
	require.Equal(t, int64(15), m.Bytes())
}

func TestSameContent(t *testing.T) {
	one := []Chunk{{Len: 3, ID: Digest{1}}}
	for name, c := range map[string]struct {
		a, b Entry
		want bool
	}{
		"same chunks":         {Entry{Type: TypeFile, Size: 3, Chunks: one}, Entry{Type: TypeFile, Size: 3, Chunks: one}, true},
		"other chunks":        {Entry{Type: TypeFile, Size: 3, Chunks: one}, Entry{Type: TypeFile, Size: 3, Chunks: []Chunk{{Len: 3, ID: Digest{2}}}}, false},
		"other size":          {Entry{Type: TypeFile, Size: 3, Source: "/x"}, Entry{Type: TypeFile, Size: 4, Source: "/x"}, false},
		"one sealed file":     {Entry{Type: TypeFile, Size: 3, Source: "/x"}, Entry{Type: TypeFile, Size: 3, Source: "/x"}, true},
		"hashed since":        {Entry{Type: TypeFile, Size: 3, Source: "/x", Chunks: one}, Entry{Type: TypeFile, Size: 3, Source: "/x"}, true},
		"unhashed, elsewhere": {Entry{Type: TypeFile, Size: 3, Source: "/x"}, Entry{Type: TypeFile, Size: 3, Source: "/y"}, false},
		"unknown":             {Entry{Type: TypeFile, Size: 3}, Entry{Type: TypeFile, Size: 3}, false},
		"empty files":         {Entry{Type: TypeFile}, Entry{Type: TypeFile}, true},
		"all holes":           {Entry{Type: TypeFile, Size: 9, Chunks: []Chunk{}}, Entry{Type: TypeFile, Size: 9, Chunks: []Chunk{}}, true},
	} {
		require.Equal(t, c.want, c.a.SameContent(&c.b), name)
		require.Equal(t, c.want, c.b.SameContent(&c.a), name)
	}
}

func TestConflictErrorTellsTheThreeWaysOut(t *testing.T) {
	err := error(&ConflictError{Conflicts: []Conflict{
		{Path: "out/app", Kind: ConflictModify, Jobs: [2]string{"build", "sign"}}, {Path: "z", Kind: ConflictType, Jobs: [2]string{"build", "sign"}},
	}})
	for _, want := range []string{"out/app", "modify/modify", "build", "sign", "on_conflict: order", "prefer:", "workspace: false", "1 more"} {
		require.ErrorContains(t, err, want)
	}
	var c *ConflictError
	require.True(t, errors.As(err, &c))
}

func TestUnsupportedErrorIsFitToBeRead(t *testing.T) {
	for path, want := range map[string]string{
		"dev/sda":                   "dev/sda: a device can't be part of a snapshot",
		"a\x1b]0;x\a\u009b\n\xff":   `"a\x1b]0;x\a\u009b\n\xff": a device can't be part of a snapshot`,
		strings.Repeat("é/", 20000): "",
	} {
		got := (&UnsupportedError{Path: path, What: "device"}).Error()
		if want != "" {
			require.Equal(t, want, got)
		}
		require.Less(t, len(got), 400)
		require.True(t, utf8.ValidString(got))
	}
}
