package agent

import (
	"context"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/testenv"
	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/snapshot"
	"github.com/roost-ci/roost/snapshot/view"
)

// leave has a shell in dir start something that stays, and returns its number.
func leave(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := osexec.Command("bash", "-c", script+" >/dev/null 2>&1 </dev/null & echo $!")
	cmd.Dir = dir
	out, err := cmd.Output()
	require.NoError(t, err)
	pid := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if runs(pid) {
			osexec.Command("kill", "-9", pid).Run()
		}
	})
	require.True(t, runs(pid))
	return pid
}

func runs(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestGuestLeftovers: what a job leaves running is ended before its view is sealed, or
// discarded, and what has nothing of the view is let alone.
func TestGuestLeftovers(t *testing.T) {
	t.Parallel()
	testenv.Require(t, testenv.Linux)
	drivers(t, func(t *testing.T, driver string) {
		f := newFake(t)
		h := guestHost(t, f)
		h.driver = driver
		h.start()
		other := leave(t, t.TempDir(), "setsid sleep 100")
		for i, end := range []func(at *fakeAttempt){
			func(at *fakeAttempt) {
				s := h.seal(at)
				require.Equal(t, at.claim.Attempt, s.Output, "%+v", s)
				require.Contains(t, strings.Join(s.Lines, "\n"), "that the job left running: ")
			},
			func(at *fakeAttempt) {
				require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: at.claim.Attempt, Outcome: plugin.OutcomeFailed}))
			},
		} {
			at, w := h.open(1, ext(fmt.Sprint("job", i)))
			in := leave(t, w.View, "setsid sleep 100")
			writes := leave(t, "/", "exec 7>"+w.View+"/log; while sleep 0.01; do echo x >&7; done")
			require.Eventually(t, func() bool { _, err := os.Stat(filepath.Join(w.View, "log")); return err == nil }, time.Minute, time.Millisecond)
			end(at)
			require.False(t, runs(in))
			require.False(t, runs(writes))
			require.NoDirExists(t, w.View)
		}
		require.True(t, runs(other))
		h.end()
		requireNoViews(t, h)
	})
}

// TestGuestToken: the job's token is not in what is sealed.
func TestGuestToken(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.start()
	at, w := h.open(1, ext("a"))
	config := filepath.Join(w.View, ".git", "config")
	require.NoError(t, os.MkdirAll(filepath.Dir(config), 0o755))
	require.NoError(t, os.WriteFile(config, []byte("[remote \"origin\"]\n\turl = https://gitlab-ci-token:CANARY@example.org/p.git\n"), 0o644))
	h.seal(at)
	f.durable(at.finish.Output)
	_, w = h.open(1, from(ext("b"), at))
	b, err := os.ReadFile(filepath.Join(w.View, ".git", "config"))
	require.NoError(t, err)
	require.Equal(t, "[remote \"origin\"]\n\turl = https://example.org/p.git\n", string(b))
	out, err := osexec.Command("grep", "-rl", "CANARY", h.dir).Output()
	require.Error(t, err, "%s", out) // grep finds nothing

	// The note of what has ended is small, and goes one day.
	h.end()
	note := filepath.Join(h.dir, "store", "attempts", string(at.claim.Attempt)+".json")
	fi, err := os.Stat(note)
	require.NoError(t, err)
	require.Less(t, fi.Size(), int64(1500))
	h.edit = func(o *Options) { o.Now = func() time.Time { return time.Now().Add(47 * time.Hour) } }
	h.start()
	require.Equal(t, at.claim.Attempt, h.seal(at).Output)
	h.end()
	h.edit = func(o *Options) { o.Now = func() time.Time { return time.Now().Add(49 * time.Hour) } }
	h.start()
	_, err = h.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt})
	require.ErrorIs(t, err, snapshot.ErrNotFound)
	require.NoFileExists(t, note)

	// Nor is the payload anywhere, while the job runs or later.
	out, err = osexec.Command("grep", "-rl", "SECRET", h.dir).Output()
	require.Error(t, err, "%s", out)
}

// TestGuestOff: a job that does not take part has no workspace, and leaves none.
func TestGuestOff(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.start()
	c := ext("off")
	c.External.Off = "GIT_STRATEGY is none"
	at, w := h.open(1, c)
	require.Equal(t, plugin.StateOff, w.State)
	require.Empty(t, w.View)
	require.Equal(t, []string{"roost: workspace OFF: GIT_STRATEGY is none"}, w.Lines)
	require.Equal(t, "OFF", w.Env["ROOST_WORKSPACE_STATE"])
	require.NotContains(t, w.Env, "ROOST_DURABILITY")
	h.end()
	h.start()
	require.Len(t, h.held(), 1)
	s := h.seal(at)
	require.False(t, s.Failed)
	require.Empty(t, s.Output)
	fin := f.green(at)
	require.Empty(t, fin.Output)
	require.Equal(t, api.WorkspaceOff, fin.Code)
	h.end()
	requireNoViews(t, h)
}

// TestGuestCallsBreak: a plugin dies in the middle of its calls. What it
// asked for goes on, and the next process of it gets the answers.
func TestGuestCallsBreak(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	h.start()
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	at, g := h.claim(1, ext("a"))
	_, err := h.ag().Attach(gone, g.Attempt, nil)
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	w, err := h.ag().Attach(t.Context(), g.Attempt, nil)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(w.View, "x"), nil, 0o644))
	_, err = h.ag().Seal(gone, plugin.SealRequest{Attempt: g.Attempt, Within: time.Minute})
	if err != nil {
		require.ErrorIs(t, err, context.Canceled)
	}
	f.green(at)
	require.Equal(t, g.Attempt, h.seal(at).Output)
	require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: g.Attempt, Outcome: plugin.OutcomeCanceled}))
	require.Equal(t, api.StatusSuccess, at.finish.Status, "an end is final")
	require.NoError(t, h.ag().Discard(t.Context(), plugin.DiscardRequest{Attempt: newID(t), Outcome: plugin.OutcomeFailed}))
	h.end()
	requireNoViews(t, h)
}

// TestGuestSlotIsEmptied: nothing of an earlier job is in a slot when the next one
// gets it, also what is mounted there; and a slot that can't be emptied gets none.
func TestGuestSlotIsEmptied(t *testing.T) {
	testenv.Require(t, testenv.Linux, testenv.Root, testenv.Overlay)
	f := newFake(t)
	h := guestHost(t, f)
	h.driver = view.NameOverlay
	h.start()
	slot := filepath.Join(h.store.Dir(), "slots", "1")
	_, err := h.ag().Claim(expired(t), plugin.Offer{Slot: 1})
	require.NoError(t, err)
	for _, n := range []string{wsName + ".tmp/token", "other/deep/file", wsName + "/stale"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(slot, n)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(slot, n), nil, 0o600))
	}
	mnt := filepath.Join(slot, "mnt")
	require.NoError(t, os.Mkdir(mnt, 0o755))
	require.NoError(t, osexec.Command("mount", "-t", "tmpfs", "tmpfs", mnt).Run())
	outside := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, os.WriteFile(outside, nil, 0o600))
	require.NoError(t, os.Symlink(filepath.Dir(outside), filepath.Join(slot, "link")))

	hold, err := os.Create(filepath.Join(mnt, "open"))
	require.NoError(t, err)
	_, err = h.ag().Claim(t.Context(), plugin.Offer{Slot: 1})
	require.ErrorIs(t, err, plugin.ErrUnavailable)
	require.FileExists(t, filepath.Join(slot, "other", "deep", "file"), "all or nothing")
	require.NoError(t, hold.Close())

	at, w := h.open(1, ext("a"))
	left, err := os.ReadDir(slot)
	require.NoError(t, err)
	require.Len(t, left, 1)
	require.Equal(t, wsName, left[0].Name())
	left, err = os.ReadDir(w.View)
	require.NoError(t, err)
	require.Empty(t, left)
	require.FileExists(t, outside)
	h.seal(at)
	h.end()
	requireNoViews(t, h)
}

// TestGuestDurableOverRestart: an agent that ends while a job's durability is waited for
// decides nothing; the next process waits on, and fails the job only when it may.
func TestGuestDurableOverRestart(t *testing.T) {
	t.Parallel()
	for _, works := range []bool{true, false} {
		t.Run(fmt.Sprint(works), func(t *testing.T) {
			f := newFake(t)
			h := guestHost(t, f)
			h.edit = func(o *Options) { o.DrainTimeout = 500 * time.Millisecond }
			h.start()
			c := ext("job")
			c.External.Durability = "durable"
			at, w := h.open(1, c)
			require.Equal(t, "durable", w.Env["ROOST_DURABILITY"])
			require.NoError(t, os.WriteFile(filepath.Join(w.View, "out"), []byte("out"), 0o644))
			noUpload := func(m, p string) bool { return m == "PUT" && strings.HasPrefix(p, "/v1/blobs") }
			f.edit(func() { f.down = noUpload })
			done := make(chan error, 1)
			ag := h.ag()
			go func() {
				_, err := ag.Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: time.Minute})
				done <- err
			}()
			require.Eventually(t, func() bool { return f.called("PUT", "/v1/blobs") > 0 }, time.Minute, 5*time.Millisecond)
			h.end()
			require.ErrorIs(t, <-done, plugin.ErrUnavailable)
			require.Nil(t, at.finish)
			if works {
				f.edit(func() { f.down = nil })
			}
			h.start()
			require.Len(t, h.held(), 1)
			s, err := h.ag().Seal(t.Context(), plugin.SealRequest{Attempt: at.claim.Attempt, Within: 3 * time.Second})
			require.NoError(t, err)
			require.Equal(t, !works, s.Failed, "%+v", s)
			fin := f.finished(at)
			require.Equal(t, works, fin.Output != "")
			if works {
				require.True(t, f.layers[fin.Output].Durable)
			}
			f.edit(func() { f.down = nil })
			h.end()
			requireNoViews(t, h)
		})
	}
}

// TestDown: a blob store that answers is not down, also if it has nothing.
func TestDown(t *testing.T) {
	f := newFake(t)
	h := guestHost(t, f)
	var a *Agent
	h.tune = func(made *Agent) { a = made }
	h.start()
	h.ag() // it is registered
	require.False(t, a.down(t.Context()))
	f.edit(func() { f.down = func(_, p string) bool { return strings.HasPrefix(p, "/v1/blobs/") } })
	require.True(t, a.down(t.Context()))
	f.edit(func() { f.down = nil })
}
