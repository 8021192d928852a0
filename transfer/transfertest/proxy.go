package transfertest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// How is the way in which a connection goes bad.
type How int

// The ways.
const (
	Well      How = iota
	Reset         // both sides get a reset
	Finish        // both sides get an end that looks orderly
	BlackHole     // nothing goes on, nothing is said
)

// Fault is what becomes of one connection.
type Fault struct {
	How      How
	Up, Down int64 // after so many bytes to, or from, the server, whichever comes first
	Delay    time.Duration
	Piece    int // most bytes passed on at a time, with Delay before each; 0: 32 KiB
}

// Proxy is a TCP proxy with faults.
type Proxy struct {
	l       net.Listener
	backend string
	fault   func() Fault
	ctx     context.Context // of the proxy's life
	wg      sync.WaitGroup
}

// NewProxy listens on loopback until the test ends. fault is asked for each connection,
// from one goroutine.
func NewProxy(t testing.TB, backend string, fault func() Fault) *Proxy {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	p := &Proxy{l: l, backend: backend, fault: fault, ctx: ctx}
	p.wg.Go(p.serve)
	t.Cleanup(func() {
		cancel()
		l.Close() //nolint:errcheck // nothing was written
		p.wg.Wait()
	})
	return p
}

// URL is the proxy's, for what the backend serves at path.
func (p *Proxy) URL(path string) string { return "http://" + p.l.Addr().String() + path }

// Client makes a new connection for each request, so that each gets a fault.
func (p *Proxy) Client(t testing.TB) *http.Client {
	tr := &http.Transport{DisableKeepAlives: true, ExpectContinueTimeout: time.Second}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func (p *Proxy) serve() {
	for {
		c, err := p.l.Accept()
		if err != nil {
			return
		}
		f := p.fault()
		p.wg.Go(func() { p.handle(c, f) })
	}
}

// handle passes on in both directions until one of them ends or goes bad.
func (p *Proxy) handle(c net.Conn, f Fault) {
	b, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.backend)
	if err != nil {
		c.Close() //nolint:errcheck // a test's connection
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	var wg sync.WaitGroup
	wg.Go(func() { p.pass(ctx, cancel, b, c, f.Up, f) })
	wg.Go(func() { p.pass(ctx, cancel, c, b, f.Down, f) })
	<-ctx.Done()
	if f.How == Reset {
		c.(*net.TCPConn).SetLinger(0) //nolint:errcheck,forcetypeassert // a test's connection
		b.(*net.TCPConn).SetLinger(0) //nolint:errcheck,forcetypeassert // a test's connection
	}
	c.Close() //nolint:errcheck // a test's connection
	b.Close() //nolint:errcheck // a test's connection
	wg.Wait()
}

func (p *Proxy) pass(ctx context.Context, cancel func(), to, from net.Conn, limit int64, f Fault) {
	buf := make([]byte, 32<<10)
	if f.Piece > 0 {
		buf = buf[:f.Piece]
	}
	for {
		n, err := from.Read(buf)
		if f.Delay > 0 {
			select {
			case <-time.After(f.Delay):
			case <-ctx.Done():
			}
		}
		if f.How != Well {
			n = int(min(int64(n), limit))
			limit -= int64(n)
		}
		_, werr := to.Write(buf[:n])
		if f.How == BlackHole && limit == 0 {
			p.swallow(ctx, cancel, from)
			return
		}
		if err != nil || werr != nil || (f.How != Well && limit == 0) {
			cancel()
			return
		}
	}
}

// swallow takes in what comes until the sender gives up or the proxy ends.
func (p *Proxy) swallow(ctx context.Context, cancel func(), from net.Conn) {
	buf := make([]byte, 32<<10)
	for ctx.Err() == nil {
		if _, err := from.Read(buf); err != nil {
			cancel()
		}
	}
}
