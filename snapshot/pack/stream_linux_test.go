package pack

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/snapshot"
)

// A file with another ctime than it had when it was looked at is refused, be it small,
// large, or so new that it is looked at twice.
func TestStreamAsOf(t *testing.T) {
	w := newWorld(t)
	for name, size := range map[string]int{"small": 3000, "large": largeBytes + 3} {
		for when, clock := range map[string]time.Time{"new": time.Now().Add(-time.Hour), "old": time.Now().Add(time.Hour)} {
			t.Run(name+", "+when, func(t *testing.T) {
				ch := w.file("f", noise(size, 1))
				fi, err := os.Stat(ch.Entry.Source)
				require.NoError(t, err)
				ctime := fi.Sys().(*syscall.Stat_t).Ctim.Nano()
				o := w.options()
				o.Now = func() time.Time { return clock }
				for off, ok := range map[int64]bool{0: true, 1: false, -ctime: true} {
					st, err := NewStream(o, 1)
					require.NoError(t, err)
					err = st.AddAsOf(t.Context(), []snapshot.Change{ch}, []int64{ctime + off})
					if ok {
						require.NoError(t, err)
					} else {
						require.ErrorContains(t, err, "changed since")
					}
					st.Close()
				}
			})
		}
	}
}
