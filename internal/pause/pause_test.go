package pause

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFor(t *testing.T) {
	require.NoError(t, For(t.Context(), time.Microsecond))
	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	require.ErrorIs(t, For(ctx, time.Hour), why)
}

func TestBackoff(t *testing.T) {
	plain := Backoff{First: time.Second, Most: time.Minute}
	for n, want := range map[int]time.Duration{
		-1: time.Second, 0: time.Second, 1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1 << 30: time.Minute,
	} {
		require.Equal(t, want, plain.After(n), "failure %d", n)
	}
	require.Equal(t, time.Second, Backoff{First: time.Minute, Most: time.Second}.After(1), "never more than Most")

	random := plain
	random.Rand = rand.Reader
	for n := 1; n < 9; n++ {
		got, most := random.After(n), plain.After(n)
		require.True(t, most/2 <= got && got <= most, "failure %d: %s", n, got)
	}
}

func TestTries(t *testing.T) {
	tries := Tries{Backoff: Backoff{First: time.Millisecond, Most: 4 * time.Millisecond}}
	for _, want := range []time.Duration{1, 2, 4, 4} {
		require.Equal(t, want*time.Millisecond, tries.Next())
	}
	tries.Reset()
	require.Equal(t, time.Millisecond, tries.Next())
	require.NoError(t, tries.Wait(t.Context(), 0))

	why := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(why)
	require.ErrorIs(t, tries.Wait(ctx, time.Hour), why, "it would wait that long")
	require.Equal(t, 4*time.Millisecond, tries.Next(), "that counts, too")
}

func TestJitter(t *testing.T) {
	require.Equal(t, 5*time.Second, Jitter(10*time.Second, bytes.NewReader(make([]byte, 8))), "the least")
	require.Equal(t, 7500*time.Millisecond, Jitter(10*time.Second, bytes.NewReader(nil)), "without chance, the middle")
	require.Less(t, Fraction(bytes.NewReader(bytes.Repeat([]byte{0xff}, 8))), 1.0)
}
