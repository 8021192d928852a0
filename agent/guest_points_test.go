//go:build failpoints

package agent

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/internal/testenv"
)

// guestPoints are the steps at which the agent of a runner's job is killed; those that
// other tests reach too are the ones between which a view is neither here nor there.
var guestPoints = map[string][]string{
	"seal": {
		"agent.guest.claimed", "agent.guest.accepted", "agent.guest.attached", "agent.guest.sealed", "agent.finished", "agent.let-go",
		"store.prepare.row", "store.prepared", "store.prepare.outlives", "view.prepare.mounted",
		"view.seal.unmounted", "store.sealed", "store.seal.row",
	},
	"discard": {"agent.guest.discarding", "agent.guest.dropped", "agent.finished", "store.discarded", "view.trashed"},
	// Of the process after one that was killed when a runner had the job.
	"again": {"agent.guest.recovered"},
}

// TestGuestKillAllPoints compares the list with the source.
func TestGuestKillAllPoints(t *testing.T) {
	listed := map[string]bool{}
	for _, names := range guestPoints {
		for _, n := range names {
			listed[n] = true
		}
	}
	for p := range testenv.FailPoints(t, "guest*.go") {
		require.True(t, listed[p], "%s is not in the list", p)
	}
}

// TestGuestKillAtPoints kills the agent at each step of a runner's job.
func TestGuestKillAtPoints(t *testing.T) {
	drivers(t, func(t *testing.T, driver string) {
		testenv.Require(t, testenv.Linux)
		for kind, names := range guestPoints {
			for _, point := range names {
				t.Run(kind+"/"+point, func(t *testing.T) {
					f := newFake(t)
					h := newHost(t, f, "a")
					h.driver = driver
					end := strings.Replace(kind, "again", "seal", 1)
					first := point
					if kind == "again" {
						first = "agent.guest.sealed"
					}
					cmd := h.victim(victimPlugin+"="+end, fail.Env+"="+first)
					f.wait("an offer", func() bool { return len(f.offers) == 1 })
					at := f.give("a", ext("job"))
					require.Error(t, cmd.Wait(), "it was not killed")
					if kind == "again" {
						cmd = h.victim(victimPlugin+"="+end, fail.Env+"="+point)
						require.Error(t, cmd.Wait(), "it was not killed")
					}
					cmd = h.victim(victimPlugin + "=" + end)
					checkGuest(t, h, at, end)
					kill(t, cmd)
					h.afterKill(at)
				})
			}
		}
	})
}
