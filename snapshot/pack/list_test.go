package pack

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func listed(t require.TestingT, l *List) (out []snapshot.Entry) {
	require.NoError(t, l.Each(func(e *snapshot.Entry) error {
		out = append(out, *e)
		return nil
	}))
	return out
}

func TestListKeepsAllButContent(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var l List
		m := genManifest(rt)
		var firsts []int
		for i := range m.Entries {
			e := &m.Entries[i]
			e.Source = "/somewhere"
			require.NoError(rt, l.Append(e))
			e.Source, e.Chunks = "", []snapshot.Chunk{}
			if e.Link == "" && e.Type == snapshot.TypeFile && rapid.Bool().Draw(rt, "first") {
				firsts = append(firsts, i)
				e.Link = e.Path
			}
		}
		l.SetFirsts(firsts)
		require.Equal(rt, len(m.Entries), l.Len())
		for range 2 {
			got := listed(rt, &l)
			require.Len(rt, got, len(m.Entries))
			for i := range got {
				require.Nil(rt, got[i].Chunks)
				got[i].Chunks = m.Entries[i].Chunks
				require.True(rt, m.Entries[i].Equal(&got[i]), "%+v", got[i])
			}
		}
	})
}

// Entries lie in pages, and one that is larger than a page has one of its own.
func TestListOfManyPages(t *testing.T) {
	var l List
	var want []snapshot.Entry
	for i := range 5000 {
		e := snapshot.Entry{Path: fmt.Sprintf("%04d/%s", i, strings.Repeat("n", 200)), Type: snapshot.TypeFifo, MTime: int64(i) << 40}
		if i == 777 {
			e.Xattrs = []snapshot.Xattr{{Name: "user.large", Value: make([]byte, snapshot.MaxXattrBytes)}}
		}
		want = append(want, e)
		require.NoError(t, l.Append(&e))
	}
	require.Greater(t, len(l.pages), 10)
	require.Equal(t, want, listed(t, &l))
}

func TestListRefuses(t *testing.T) {
	var l List
	require.NoError(t, l.Append(&snapshot.Entry{Path: "b", Type: snapshot.TypeDir}))
	require.ErrorContains(t, l.Append(&snapshot.Entry{Path: "a", Type: snapshot.TypeDir}), "out of order")
	require.ErrorContains(t, l.Append(&snapshot.Entry{Path: "c"}), "unknown type")
	stop := errors.New("enough")
	require.Equal(t, stop, l.Each(func(*snapshot.Entry) error { return stop }))
}
