package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
)

// TestGuestFigures says what an attach and a seal take for a runner's job in a chain, the
// coordinator's answers included. The bounds are those of a broken program, not of a
// slow machine.
func TestGuestFigures(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()
		files := make([]string, 200)
		for i := range files {
			files[i] = fmt.Sprintf("f%d", i)
		}
		last := h.pass(1, ext("base"), files...)
		var attach, seal []time.Duration
		n := 30
		if testing.Short() {
			n = 3
		}
		for i := range n {
			at, g := h.claim(1, from(ext(fmt.Sprint("job", i)), last))
			begin := time.Now()
			w, err := h.ag().Attach(t.Context(), g.Attempt, nil)
			require.NoError(t, err)
			attach = append(attach, time.Since(begin))
			require.NoError(t, os.WriteFile(filepath.Join(w.View, "new"), []byte(fmt.Sprint(i)), 0o644))
			begin = time.Now()
			s, err := h.ag().Seal(t.Context(), plugin.SealRequest{Attempt: g.Attempt, Within: time.Minute})
			require.NoError(t, err)
			seal = append(seal, time.Since(begin))
			require.Equal(t, g.Attempt, s.Output)
			last = at
		}
		slices.Sort(attach)
		slices.Sort(seal)
		t.Logf("%s: attach p50 %s, p90 %s; seal p50 %s, p90 %s", driver, attach[n/2], attach[n*9/10], seal[n/2], seal[n*9/10])
		require.Less(t, attach[n/2], time.Second)
		require.Less(t, seal[n/2], time.Second)
	})
}
