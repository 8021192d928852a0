package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

func TestClaim(t *testing.T) {
	offer := plugin.Offer{Slot: 3, Runner: []byte(`{"info":1}`), Job: []byte("job")}
	grant := &plugin.Grant{
		Attempt: newID(t), Slot: 3, Payload: bytes.Repeat([]byte{0, 255}, MaxPayload/2), Age: 1500 * time.Microsecond, Log: []byte("x\n"),
	}
	s := &scripted{claim: func(_ context.Context, o plugin.Offer) (*plugin.Grant, error) {
		require.Equal(t, offer, o)
		return grant, nil
	}}
	got, err := dial(t, s).Claim(t.Context(), offer)
	require.NoError(t, err)
	require.Equal(t, grant, got)
	require.Empty(t, s.discards())
}

func TestClaimRefused(t *testing.T) {
	claims := 0
	s := &scripted{claim: func(context.Context, plugin.Offer) (*plugin.Grant, error) {
		claims++
		return &plugin.Grant{Attempt: newID(t), Payload: make([]byte, MaxPayload+1)}, nil
	}}
	a := dial(t, s)
	_, err := a.Claim(t.Context(), plugin.Offer{Job: make([]byte, MaxPayload+1)})
	require.ErrorIs(t, err, plugin.ErrInvalid)
	require.Zero(t, claims)
	_, err = a.Claim(t.Context(), plugin.Offer{})
	require.ErrorIs(t, err, plugin.ErrInvalid)
	require.ErrorContains(t, err, "payload of 16777217 bytes")
	require.Len(t, s.discards(), 1, "it can't be delivered, and somebody has to know")
	require.Equal(t, plugin.OutcomeUndelivered, s.discards()[0].Outcome)

	s.claim = func(context.Context, plugin.Offer) (*plugin.Grant, error) { return nil, errors.New("no such pool") }
	_, err = a.Claim(t.Context(), plugin.Offer{})
	require.EqualError(t, err, "no such pool")
	s.claim = func(context.Context, plugin.Offer) (*plugin.Grant, error) { return nil, nil }
	_, err = a.Claim(t.Context(), plugin.Offer{})
	require.ErrorIs(t, err, plugin.ErrUnavailable, "no job, and nobody had withdrawn")
}

func TestClaimWithdrawn(t *testing.T) {
	for _, late := range []bool{false, true} { // late: there is a job all the same
		t.Run(fmt.Sprint("late=", late), func(t *testing.T) {
			began, ended := make(chan struct{}), make(chan struct{})
			id := newID(t)
			s := &scripted{claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) {
				close(began)
				<-ctx.Done()
				close(ended)
				if late {
					return &plugin.Grant{Attempt: id}, nil
				}
				return nil, nil
			}}
			a := dial(t, s)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				<-began
				cancel()
			}()
			g, err := a.Claim(ctx, plugin.Offer{})
			require.NoError(t, err)
			within(t, "the agent hears of it", ended)
			if late {
				require.Equal(t, id, g.Attempt)
			} else {
				require.Nil(t, g)
			}
			require.Empty(t, s.discards())
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	g, err := dial(t, &scripted{}).Claim(ctx, plugin.Offer{})
	require.NoError(t, err)
	require.Nil(t, g)
}

// TestNoGrantIsLost withdraws at random moments. Each job is the plugin's, or is given
// back; never both, never neither.
func TestNoGrantIsLost(t *testing.T) {
	var mu sync.Mutex
	granted := map[snapshot.ID]bool{}
	s := &scripted{claim: func(ctx context.Context, _ plugin.Offer) (*plugin.Grant, error) {
		select {
		case <-ctx.Done():
			if rand.IntN(2) == 0 {
				return nil, nil
			}
		case <-time.After(rand.N(2 * time.Millisecond)):
		}
		id := newID(t)
		mu.Lock()
		defer mu.Unlock()
		granted[id] = true
		return &plugin.Grant{Attempt: id}, nil
	}}
	a := dial(t, s)
	var wg sync.WaitGroup
	got := map[snapshot.ID]bool{}
	for range 8 {
		wg.Go(func() {
			for range 100 {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(2*time.Millisecond))
				g, err := a.Claim(ctx, plugin.Offer{})
				cancel()
				if err != nil {
					t.Error(err)
				}
				if g != nil {
					mu.Lock()
					got[g.Attempt] = true
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	require.NotEmpty(t, got)
	require.Equal(t, granted, got)
	require.Empty(t, s.discards())
}

// TestPluginDiesOverAGrant: before it has said that it has it, the job is given back; after
// that it is in Held.
func TestPluginDiesOverAGrant(t *testing.T) {
	for _, taken := range []bool{false, true} {
		t.Run(fmt.Sprint("taken=", taken), func(t *testing.T) {
			back := make(chan struct{})
			id := newID(t)
			s := &scripted{
				claim:   func(context.Context, plugin.Offer) (*plugin.Grant, error) { return &plugin.Grant{Attempt: id}, nil },
				discard: func(context.Context, plugin.DiscardRequest) error { close(back); return nil },
			}
			pb, conn := connect(t, s)
			stream, err := pb.Claim(t.Context())
			require.NoError(t, err)
			require.NoError(t, stream.Send(&wirepb.ClaimRequest{Step: &wirepb.ClaimRequest_Offer{Offer: &wirepb.Offer{}}}))
			m, err := stream.Recv()
			require.NoError(t, err)
			require.Equal(t, string(id), m.GetGrant().GetAttempt())
			if taken {
				require.NoError(t, stream.Send(&wirepb.ClaimRequest{Step: &wirepb.ClaimRequest_Taken{Taken: &wirepb.Taken{}}}))
				_, err := stream.Recv()
				require.ErrorContains(t, err, "EOF")
			}
			require.NoError(t, conn.Close())
			if taken {
				time.Sleep(20 * time.Millisecond)
				require.Empty(t, s.discards())
				return
			}
			within(t, "it is given back", back)
			require.Equal(t, plugin.DiscardRequest{
				Attempt: id, Outcome: plugin.OutcomeUndelivered, Reason: "the plugin did not take it",
			}, s.discards()[0])
		})
	}
}

func TestAttach(t *testing.T) {
	want := &plugin.Workspace{
		State: plugin.StateFresh, View: "/slots/1/x", Name: string(newID(t)), Contained: []string{"7", "8"},
		Lines: []string{"one", "two"}, Code: "DISK_FULL", Reason: "no room", Env: map[string]string{"A": "1", "B": ""},
	}
	id := newID(t)
	s := &scripted{attach: func(_ context.Context, got snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
		require.Equal(t, id, got)
		for i := range 100 {
			progress(fmt.Sprint("line ", i, " \xff"))
		}
		return want, nil
	}}
	a := dial(t, s)
	var lines []string
	w, err := a.Attach(t.Context(), id, func(l string) { lines = append(lines, l) })
	require.NoError(t, err)
	require.Equal(t, want, w)
	require.Len(t, lines, 100)
	require.Equal(t, "line 99 �", lines[99])
	_, err = a.Attach(t.Context(), id, nil)
	require.NoError(t, err)

	s.attach = func(_ context.Context, _ snapshot.ID, progress func(string)) (*plugin.Workspace, error) {
		go func() { // a late line is nobody's
			for range 1000 {
				progress("late")
			}
		}()
		return nil, fmt.Errorf("attach: %w", &plugin.Error{Code: "MERGE_CONFLICT", Text: "a and b disagree"})
	}
	_, err = a.Attach(t.Context(), id, nil)
	require.EqualError(t, err, "attach: a and b disagree")
	var coded *plugin.Error
	require.ErrorAs(t, err, &coded)
	require.Equal(t, "MERGE_CONFLICT", coded.Code)

	for _, bad := range []plugin.Workspace{{State: "HALF"}, {State: plugin.StateFull, Name: "../../etc"}} {
		s.attach = func(context.Context, snapshot.ID, func(string)) (*plugin.Workspace, error) { return &bad, nil }
		_, err = a.Attach(t.Context(), id, nil)
		require.Error(t, err, "%+v", bad)
	}
}

// TestCancelTravels: in every call that may last.
func TestCancelTravels(t *testing.T) {
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	wait := func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	}
	s := &scripted{
		attach: func(ctx context.Context, _ snapshot.ID, _ func(string)) (*plugin.Workspace, error) {
			return nil, wait(ctx)
		},
		seal:    func(ctx context.Context, _ plugin.SealRequest) (*plugin.Sealed, error) { return nil, wait(ctx) },
		discard: func(ctx context.Context, _ plugin.DiscardRequest) error { return wait(ctx) },
		held:    func(ctx context.Context) ([]plugin.Held, error) { return nil, wait(ctx) },
	}
	a := dial(t, s)
	id := newID(t)
	for name, call := range map[string]func(context.Context) error{
		"attach": func(ctx context.Context) error { _, err := a.Attach(ctx, id, nil); return err },
		"seal":   func(ctx context.Context) error { _, err := a.Seal(ctx, plugin.SealRequest{Attempt: id}); return err },
		"discard": func(ctx context.Context) error {
			return a.Discard(ctx, plugin.DiscardRequest{Attempt: id, Outcome: plugin.OutcomeFailed})
		},
		"held": func(ctx context.Context) error { _, err := a.Held(ctx); return err },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-began
				cancel()
			}()
			require.ErrorIs(t, call(ctx), context.Canceled)
			within(t, "the agent hears of it", ended)
			ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond) // it has to get there
			defer cancel()
			go func() { <-began }()
			require.ErrorIs(t, call(ctx), context.DeadlineExceeded)
			within(t, "the agent hears of it", ended)
		})
	}
}

func TestSealDiscardHeld(t *testing.T) {
	req := plugin.SealRequest{Attempt: newID(t), Run: 3 * time.Hour, Within: 1}
	res := &plugin.Sealed{Output: newID(t), Failed: true, Reason: "why", Lines: []string{"l"}}
	dis := plugin.DiscardRequest{Attempt: newID(t), Outcome: plugin.OutcomeSystem, ExitCode: -7, Reason: "r", Run: time.Second}
	held := []plugin.Held{{Attempt: newID(t), Slot: 1}, {Attempt: newID(t), Slot: 2, Attached: true}}
	s := &scripted{
		seal: func(_ context.Context, got plugin.SealRequest) (*plugin.Sealed, error) {
			require.Equal(t, req, got)
			return res, nil
		},
		held: func(context.Context) ([]plugin.Held, error) { return held, nil },
	}
	a := dial(t, s)
	got, err := a.Seal(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, res, got)
	require.NoError(t, a.Discard(t.Context(), dis))
	require.Equal(t, []plugin.DiscardRequest{dis}, s.discards())
	list, err := a.Held(t.Context())
	require.NoError(t, err)
	require.Equal(t, held, list)
	res = &plugin.Sealed{}
	got, err = a.Seal(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, res, got)
}

// TestNothingIsTrusted: what a plugin sends is checked before the agent sees it.
func TestNothingIsTrusted(t *testing.T) {
	s := &scripted{}
	a := dial(t, s)
	for _, bad := range []snapshot.ID{"", "x", "../../../../../../etc/passwd", snapshot.ID(strings.Repeat("A", 26))} {
		_, err := a.Attach(t.Context(), bad, nil)
		require.ErrorIs(t, err, plugin.ErrInvalid)
		_, err = a.Seal(t.Context(), plugin.SealRequest{Attempt: bad})
		require.ErrorIs(t, err, plugin.ErrInvalid)
		err = a.Discard(t.Context(), plugin.DiscardRequest{Attempt: bad, Outcome: plugin.OutcomeFailed})
		require.ErrorIs(t, err, plugin.ErrInvalid)
	}
	require.ErrorIs(t, a.Discard(t.Context(), plugin.DiscardRequest{Attempt: newID(t), Outcome: "won"}), plugin.ErrInvalid)
	require.Empty(t, s.discards())
	pb, _ := connect(t, s)
	stream, err := pb.Claim(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&wirepb.ClaimRequest{}))
	_, err = stream.Recv()
	require.ErrorIs(t, decode(err), plugin.ErrInvalid)
}

func TestErrors(t *testing.T) {
	for _, k := range kinds {
		err := decode(encode(fmt.Errorf("about %w", k.err)))
		require.ErrorIs(t, err, k.err)
		require.EqualError(t, err, "about "+k.err.Error())
		for _, other := range kinds {
			require.Equal(t, other.code == k.code, errors.Is(err, other.err), "%v is %v", k.err, other.err)
		}
	}
	require.NoError(t, decode(encode(nil)))
	err := decode(encode(errors.New(strings.Repeat("x", 1<<20) + "\xff")))
	require.Less(t, len(err.Error()), 1<<16)
	err = decode(encode(fmt.Errorf("%w: %w", &plugin.Error{Code: "X", Text: "t"}, plugin.ErrUnavailable)))
	require.ErrorIs(t, err, plugin.ErrUnavailable)
	var coded *plugin.Error
	require.ErrorAs(t, err, &coded)
	require.Equal(t, "X", coded.Code)
}
