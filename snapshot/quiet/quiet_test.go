package quiet

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		ctx, cancel := context.WithCancel(t.Context())
		aside := Aside(context.WithoutCancel(ctx), &g)
		waited := func(ctx context.Context) time.Duration {
			start := time.Now()
			Step(ctx)
			return time.Since(start)
		}
		require.Zero(t, waited(aside), "nobody holds it")
		one, two := g.Hold(), g.Hold()
		require.Zero(t, waited(ctx), "it is nobody's who serves")
		require.Equal(t, patience, waited(aside), "held without end")
		time.AfterFunc(10*time.Millisecond, one)
		time.AfterFunc(20*time.Millisecond, two)
		require.Equal(t, 20*time.Millisecond, waited(aside))
		require.Zero(t, waited(aside))

		one = g.Hold()
		require.Zero(t, waited(Like(ctx, t.Context())))
		time.AfterFunc(10*time.Millisecond, one)
		require.Equal(t, 10*time.Millisecond, waited(Like(ctx, aside)))

		one = g.Hold()
		time.AfterFunc(10*time.Millisecond, one)
		start, out := time.Now(), new(bytes.Buffer)
		_, err := io.WriteString(Writer(aside, out), "text")
		require.NoError(t, err)
		require.Equal(t, "text", out.String())
		require.Equal(t, 10*time.Millisecond, time.Since(start))

		defer g.Hold()()
		time.AfterFunc(5*time.Millisecond, cancel)
		require.Equal(t, 5*time.Millisecond, waited(Aside(ctx, &g)))
	})
}

// Who is waited for by whom it stands aside for is not held up by each of its pieces.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Gate
		steps := func(n int, step func()) time.Duration {
			start := time.Now()
			for range n {
				step()
			}
			return time.Since(start)
		}
		step := Pace(Aside(t.Context(), &g))
		require.Zero(t, steps(10, step))
		for range 3 { // one hand-over after the other
			time.AfterFunc(10*time.Millisecond, g.Hold())
			require.Equal(t, 10*time.Millisecond, steps(10, step))
		}
		release := g.Hold()
		require.Equal(t, patience, steps(1000, step))
		release()
		require.Zero(t, steps(10, Pace(t.Context())))
	})
}
