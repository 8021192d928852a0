package gitlab

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

// lumps reads and writes in pieces of random sizes.
type lumps struct {
	r io.Reader
	w io.Writer
	*rand.Rand
}

func (l lumps) Read(p []byte) (int, error) { return l.r.Read(p[:l.IntN(len(p))+1]) }

func (l lumps) Write(p []byte) (total int, err error) {
	for len(p) > 0 && err == nil {
		var n int
		n, err = l.w.Write(p[:l.IntN(len(p))+1])
		total, p = total+n, p[n:]
	}
	return total, err
}

// TestPump: every byte once and in order, whatever the pieces are; the buffer goes round.
func TestPump(t *testing.T) {
	b := &buffers{}
	for seed := range uint64(40) {
		r := rand.New(rand.NewPCG(seed, 1))
		want := make([]byte, r.IntN(6*streamBuffer))
		for i := range want {
			want[i] = byte(r.Uint32())
		}
		var got bytes.Buffer
		n, err := b.move(lumps{w: &got, Rand: r}, lumps{r: bytes.NewReader(want), Rand: rand.New(rand.NewPCG(seed, 2))})
		require.NoError(t, err)
		require.EqualValues(t, len(want), n)
		require.True(t, bytes.Equal(want, got.Bytes()), seed)
	}
}

// failing fails at its nth byte.
type failing struct{ left int }

var errFull = errors.New("full")

func (f *failing) Write(p []byte) (int, error) {
	n := min(len(p), f.left)
	f.left -= n
	if n < len(p) {
		return n, errFull
	}
	return n, nil
}

// TestPumpFails: what was read before the reader's error is written, and the error told; a
// writer's error ends the reader.
func TestPumpFails(t *testing.T) {
	broken := errors.New("broken")
	var got bytes.Buffer
	n, err := new(buffers).move(&got, io.MultiReader(bytes.NewReader(make([]byte, 1_000_000)), iotest.ErrReader(broken)))
	require.ErrorIs(t, err, broken)
	require.EqualValues(t, 1_000_000, n)
	require.Equal(t, 1_000_000, got.Len())

	reads := make(chan struct{})
	n, err = new(buffers).move(&failing{left: 700_000}, closer{zeros{}, reads})
	require.ErrorIs(t, err, errFull)
	require.EqualValues(t, 700_000, n)
	for idle := false; !idle; {
		select {
		case <-reads:
		case <-time.After(time.Second): // nobody reads any more
			idle = true
		}
	}
}

// closer tells of each read.
type closer struct {
	io.Reader
	reads chan struct{}
}

func (c closer) Read(p []byte) (int, error) {
	select {
	case c.reads <- struct{}{}:
	default:
	}
	return c.Reader.Read(p)
}

// TestPumpHoldsNothingBack: a byte arrives though no other follows.
func TestPumpHoldsNothingBack(t *testing.T) {
	in, w := io.Pipe()
	r, out := io.Pipe()
	go func() {
		_, err := new(buffers).move(out, in)
		out.CloseWithError(err)
	}()
	for i := range 100 {
		_, err := w.Write([]byte{byte(i)})
		require.NoError(t, err)
		var b [10]byte
		n, err := r.Read(b[:])
		require.NoError(t, err)
		require.Equal(t, []byte{byte(i)}, b[:n])
	}
	w.Close()
	_, err := r.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}
