package pack

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/roost-ci/roost/snapshot"
)

func TestNotesKeepAll(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var l Notes
		m := genManifest(rt)
		var notes [][]byte
		for i := range m.Entries {
			e := &m.Entries[i]
			if e.Type == snapshot.TypeFile && rapid.Bool().Draw(rt, "unhashed") {
				e.Chunks = nil
			}
			if e.Type == snapshot.TypeFile {
				dir := rapid.SampledFrom([]string{"/layer/a/", "/layer/b/"}).Draw(rt, "dir")
				switch rapid.IntRange(0, 2).Draw(rt, "source") {
				case 1:
					e.Source = dir + e.Path
				case 2:
					e.Source, e.SourceAt = dir+"bundle", rapid.Int64Range(0, 1<<40).Draw(rt, "at")
				}
			}
			note := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(rt, "note")
			notes = append(notes, note)
			require.NoError(rt, l.Append(e, note))
		}
		for range 2 {
			at := 0
			require.NoError(rt, l.Each(func(e *snapshot.Entry, note []byte) error {
				want := m.Entries[at]
				require.Equal(rt, []any{want.Source, want.SourceAt, want.Hashed()}, []any{e.Source, e.SourceAt, e.Hashed()})
				if !e.Hashed() {
					want.Chunks, e.Chunks = []snapshot.Chunk{}, []snapshot.Chunk{}
				}
				require.True(rt, want.Equal(e), "%+v", e)
				require.Equal(rt, string(notes[at]), string(note))
				at++
				return nil
			}))
			require.Len(rt, m.Entries, at)
		}
	})
}

func TestNotesAreSmall(t *testing.T) {
	var l Notes
	const n = 10_000
	for i := range n {
		e := snapshot.Entry{Path: fmt.Sprintf("packages/module-%03d/source_file_%02d.go", i/50, i%50), Type: snapshot.TypeFile, Mode: 0o644, Size: 5}
		e.Chunks, e.Source = []snapshot.Chunk{{Len: 5, ID: snapshot.Digest{byte(i), byte(i >> 8)}}}, "/store/views/x/ux/"+e.Path
		require.NoError(t, l.Append(&e, []byte{1, 2}))
	}
	bytes := 0
	for _, p := range l.pages {
		bytes += cap(p)
	}
	require.Less(t, bytes/n, 80)
	stop := errors.New("stop")
	require.Equal(t, stop, l.Each(func(*snapshot.Entry, []byte) error { return stop }))
	require.Error(t, l.Append(&snapshot.Entry{Path: "a", Type: snapshot.TypeFifo}, nil), "out of order")
}
