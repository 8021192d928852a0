package view

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

const metaID = snapshot.ID("00000000000000000000000001")

// metaOf writes a meta with these stamps.
func metaOf(t *testing.T, m *copyMeta, list map[uint64]stamp) layout {
	t.Helper()
	l, err := openLayout(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(l.dir(metaID), 0o700))
	w, err := l.newMeta(metaID, m)
	require.NoError(t, err)
	defer w.abort()
	for ino, s := range list {
		w.add(ino, stamp{s.ctime - 1, "before " + s.path}) // the last line counts
	}
	for ino, s := range list {
		w.add(ino, s)
	}
	require.NoError(t, w.commit(l, metaID))
	return l
}

// stampsIn are those that a meta has.
func stampsIn(l layout) (map[uint64]stamp, error) {
	s, err := l.openStamps(metaID)
	if err != nil {
		return nil, err
	}
	defer s.close()
	out := map[uint64]stamp{}
	for _, a := range s.all {
		p, ok, err := s.path(a.ino, a.ctime, "")
		if err != nil || !ok {
			return nil, fmt.Errorf("%d: %w", a.ino, err)
		}
		out[a.ino] = stamp{a.ctime, p}
	}
	return out, nil
}

// What the copy driver goes by when it looks for changes has no flipped bit in it:
// a path that is another one would give a file another's content.
func TestFlippedMeta(t *testing.T) {
	wantMeta := &copyMeta{target: "/some \" where/\xff", root: 7}
	want := map[uint64]stamp{8: {1_500_000_000, "a/b\n"}, 9: {-1, "c"}}
	l := metaOf(t, wantMeta, want)
	gotMeta, err := l.readMeta(metaID, nil)
	require.NoError(t, err)
	require.Equal(t, wantMeta, gotMeta)
	got, err := stampsIn(l)
	require.NoError(t, err)
	require.Equal(t, want, got)

	name := filepath.Join(l.dir(metaID), metaName)
	good, err := os.ReadFile(name)
	require.NoError(t, err)
	for bit := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		require.NoError(t, os.WriteFile(name, bad, 0o600))
		if got, err := stampsIn(l); err == nil {
			require.Equal(t, want, got, "bit %d", bit) // the last line feed
		}
		if got, err := l.readMeta(metaID, nil); err == nil {
			require.Equal(t, wantMeta, got, "bit %d", bit)
		}
	}
	for n := range good[:len(good)-1] {
		require.NoError(t, os.WriteFile(name, good[:n], 0o600))
		_, err = l.readMeta(metaID, nil)
		require.Error(t, err, "%d bytes", n)
		_, err = l.openStamps(metaID)
		require.Error(t, err, "%d bytes", n)
	}
}

// A stamp is found in a list of any length, and tells where a file was.
func TestStamps(t *testing.T) {
	want := map[uint64]stamp{}
	for i := range uint64(3000) {
		want[i*i] = stamp{int64(i), fmt.Sprintf("%s/%d", strings.Repeat("\xff", int(i%255)), i)}
	}
	want[1<<63] = stamp{5, strings.Repeat("\xff", snapshot.MaxPathBytes)}
	l := metaOf(t, &copyMeta{}, want)
	got, err := stampsIn(l)
	require.NoError(t, err)
	require.Equal(t, want, got)
	s, err := l.openStamps(metaID)
	require.NoError(t, err)
	defer s.close()
	for ino, w := range want {
		p, ok, err := s.path(ino, w.ctime, w.path)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, w.path, p)
		_, ok, err = s.path(ino, w.ctime+1, w.path)
		require.NoError(t, err)
		require.False(t, ok)
	}
	_, ok, err := s.path(7, 0, "")
	require.NoError(t, err)
	require.False(t, ok)
}
