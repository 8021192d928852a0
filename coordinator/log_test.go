package coordinator

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

func TestLogOffsets(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit(single)
	c := h.claim()
	h.begin(c)
	for _, step := range []struct {
		name string
		off  int64
		text string
		next int64
		gap  int64 // -1: none
		all  string
	}{
		{"first", 0, "abc", 3, -1, "abc"},
		{"a gap", 5, "x", 0, 3, "abc"},
		{"again", 0, "abc", 3, -1, "abc"},
		{"part of it again", 1, "b", 3, -1, "abc"},
		{"overlapping", 2, "cdef", 6, -1, "abcdef"},
		{"next", 6, "g", 7, -1, "abcdefg"},
		{"empty", 7, "", 7, -1, "abcdefg"},
	} {
		next, err := h.c.AppendLog(t.Context(), ref(c), step.off, []byte(step.text))
		if step.gap >= 0 {
			var gap *api.OffsetError
			require.ErrorAs(t, err, &gap, step.name)
			require.Equal(t, step.gap, gap.Want, step.name)
		} else {
			require.NoError(t, err, step.name)
			require.Equal(t, step.next, next, step.name)
		}
		got, err := b.user.Log(t.Context(), c.Attempt, 0, 0)
		require.NoError(t, err)
		require.Equal(t, step.all, string(got.Data), step.name)
	}
	got, err := b.user.Log(t.Context(), c.Attempt, 4, 0)
	require.NoError(t, err)
	require.Equal(t, "efg", string(got.Data))
	require.Equal(t, int64(7), got.Next)
	require.False(t, got.Ended)
}

func TestLogLimit(t *testing.T) {
	b := newBench(t, func(o *Options) { o.MaxLog = 1 << 20 })
	h := b.newHost("h", 1)
	b.submit(single)
	c := h.claim()
	h.begin(c)
	piece := bytes.Repeat([]byte("0123456789abcde\n"), 1<<12)
	var off int64
	for range 20 {
		next, err := h.c.AppendLog(t.Context(), ref(c), off, piece)
		require.NoError(t, err)
		require.Equal(t, off+int64(len(piece)), next, "the sender does not notice")
		off = next
	}
	h.succeed(c)
	var all []byte
	for {
		got, err := b.user.Log(t.Context(), c.Attempt, int64(len(all)), 0)
		require.NoError(t, err)
		all = append(all, got.Data...)
		if got.Ended {
			break
		}
	}
	require.Equal(t, 1, strings.Count(string(all), "the log is longer than 1 MiB"))
	require.Less(t, len(all), 1<<20+100)
	require.Greater(t, len(all), 1<<20)
}

// Those who wait are woken by what they wait for, not by a timer.
func TestWakes(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	type woken struct {
		what string
		err  error
	}
	wakes := make(chan woken, 4)
	wait := func(what string, f func() error) {
		go func() { wakes <- woken{what, f()} }()
		time.Sleep(50 * time.Millisecond)
	}
	expect := func(what string) {
		t.Helper()
		select {
		case w := <-wakes:
			require.NoError(t, w.err)
			require.Equal(t, what, w.what)
		case <-time.After(20 * time.Second): // the timers are of 30
			t.Fatalf("%s was not woken", what)
		}
	}
	var c api.Claim
	wait("claim", func() error {
		cs, err := h.c.Claims(t.Context(), h.id, api.ClaimRequest{Session: h.reg.Session, FreeSlots: 1, WaitMS: 30_000})
		if err == nil && len(cs.Claims) != 1 {
			err = errors.New("no claim")
		}
		if err == nil {
			c = cs.Claims[0]
		}
		return err
	})
	p := b.submit(single)
	expect("claim")

	es, err := b.user.Events(t.Context(), p.ID, 0, 0)
	require.NoError(t, err)
	wait("events", func() error {
		got, err := b.user.Events(t.Context(), p.ID, es[len(es)-1].Seq, 30*time.Second)
		if err == nil && len(got) == 0 {
			err = errors.New("no event")
		}
		return err
	})
	h.begin(c)
	expect("events")

	wait("log", func() error {
		got, err := b.user.Log(t.Context(), c.Attempt, 0, 30*time.Second)
		if err == nil && string(got.Data) != "x" {
			err = errors.New("no log")
		}
		return err
	})
	_, err = h.c.AppendLog(t.Context(), ref(c), 0, []byte("x"))
	require.NoError(t, err)
	expect("log")

	wait("log's end", func() error {
		got, err := b.user.Log(t.Context(), c.Attempt, 1, 30*time.Second)
		if err == nil && !got.Ended {
			err = errors.New("not ended")
		}
		return err
	})
	h.succeed(c)
	expect("log's end")
	require.Empty(t, b.s.hub.topics, "nobody waits, so nothing is kept for them")
}

// A host whose poll ends without its hearing of it does not keep its claim.
func TestPollGivenUp(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	cs, err := h.c.Claims(t.Context(), h.id, api.ClaimRequest{Session: h.reg.Session, FreeSlots: 1, WaitMS: 20})
	require.NoError(t, err)
	require.Empty(t, cs.Claims)
	b.advance(5 * time.Second)
	p := b.submit(single)
	j := b.job(p, "job")
	require.Equal(t, api.StatusQueued, j.Status)
	require.Equal(t, api.WaitHost, j.Code)
	require.Contains(t, j.Reason, "not asking for work")
	require.Equal(t, "job", h.claim().Job.Name)
}
