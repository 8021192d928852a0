package durable

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// pieces notes the lengths of writes, and fails the one that is number fail.
type pieces struct {
	lengths []int
	fail    int
}

func (p *pieces) WriteAt(b []byte, _ int64) (int, error) {
	p.lengths = append(p.lengths, len(b))
	if len(p.lengths) == p.fail {
		return len(b) / 2, os.ErrDeadlineExceeded
	}
	return len(b), nil
}

func TestWriteAtInPieces(t *testing.T) {
	var p pieces
	n, err := WriteAt(&p, make([]byte, 2*MaxWrite+5), 7)
	require.NoError(t, err)
	require.Equal(t, 2*MaxWrite+5, n)
	require.Equal(t, []int{MaxWrite, MaxWrite, 5}, p.lengths)

	p = pieces{fail: 2}
	n, err = WriteAt(&p, make([]byte, 3*MaxWrite), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, MaxWrite+MaxWrite/2, n)
}

func TestFileWritesAll(t *testing.T) {
	dir := t.TempDir()
	f, err := Create(dir)
	require.NoError(t, err)
	want := bytes.Repeat([]byte("0123456789"), MaxWrite/4)
	for _, part := range [][]byte{want[:3], nil, want[3:MaxWrite], want[MaxWrite:]} {
		n, err := f.Write(part)
		require.NoError(t, err)
		require.Equal(t, len(part), n)
	}
	require.NoError(t, f.Commit(filepath.Join(dir, "x")))
	got, err := os.ReadFile(filepath.Join(dir, "x"))
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
}
