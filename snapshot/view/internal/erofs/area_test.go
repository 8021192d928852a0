package erofs

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// scratchMemory is a scratch file of a test.
type scratchMemory struct {
	memory
	closed int
}

func (m *scratchMemory) Close() error { m.closed++; return nil }

// An area in a file has what one in memory has, however few pages it has of it.
func TestAreaInAFile(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.IntRange(1, 9*scratchPage).Draw(rt, "size")
		mem, file := newArea(int64(size), nil), newArea(int64(size), &scratchMemory{})
		file.pages = make([]areaPage, rapid.IntRange(1, 3).Draw(rt, "pages"))
		for range rapid.IntRange(0, 60).Draw(rt, "calls") {
			off := rapid.IntRange(0, size-1).Draw(rt, "off")
			n := rapid.IntRange(1, min(size-off, 2*scratchPage)).Draw(rt, "n")
			if rapid.Bool().Draw(rt, "write") {
				b := bytes.Repeat([]byte{rapid.Byte().Draw(rt, "byte")}, n)
				require.NoError(rt, mem.write(int64(off), b))
				require.NoError(rt, file.write(int64(off), b))
				continue
			}
			got := bytes.Repeat([]byte{1}, n)
			require.NoError(rt, file.read(int64(off), got))
			require.True(rt, bytes.Equal(mem.mem[off:off+n], got))
		}
		var all []byte
		require.NoError(rt, file.copyTo(func(b []byte) error { all = append(all, b...); return nil }))
		require.True(rt, bytes.Equal(mem.mem, all))
	})
}

// An image is the same bytes with a scratch file, which is closed in the end.
func TestScratchFileChangesNothing(t *testing.T) {
	w := newWorld(t, 3)
	w.scatter = true
	w.everything()
	o := w.options()
	want, _ := w.written(o)
	file, asked := &scratchMemory{}, int64(0)
	o.Scratch = func(bytes int64) (Scratch, error) { asked = bytes; return file, nil }
	got, info := w.written(o)
	require.True(t, bytes.Equal(want.b, got.b))
	require.Positive(t, asked)
	require.Less(t, asked, info.Bytes)
	require.NotEmpty(t, file.b)
	require.Equal(t, 1, file.closed)

	no := errors.New("no room")
	o.Scratch = func(int64) (Scratch, error) { return nil, no }
	_, err := Write(t.Context(), &memory{}, o, w.tree())
	require.ErrorIs(t, err, no)
}
