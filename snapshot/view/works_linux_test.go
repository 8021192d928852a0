package view

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// A seal leaves nothing behind in the end, and what one that was cut short left is
// deleted at the next start: of a layer, and not of a view, which goes in whole.
func TestWorkDirectoriesGo(t *testing.T) {
	h := newHost(t, Options{})
	l, _ := h.job(nil, nil, func(dir string) { h.put(dir, "a", "1") })
	of := func(id snapshot.ID) []string {
		names, err := readNames(filepath.Join(h.root, viewsDir, string(id)))
		require.NoError(t, err)
		return names
	}
	require.Eventually(t, func() bool { return len(of(l.ID)) == 1 }, time.Minute, time.Millisecond)
	v := h.prepare(l, nil)
	dir := filepath.Join(h.root, viewsDir, string(l.ID))
	for _, name := range []string{"w/incompat/volatile", "w~1/work", "w~2"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o700))
	}
	require.NoError(t, h.d.Discard(t.Context(), v))
	_, err := h.d.Reconcile(t.Context(), []snapshot.ID{l.ID}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{part(l.ID, upperPrefix)[len(viewsDir+"/"+string(l.ID)+"/"):]}, of(l.ID))
}
