package gitlab

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchHouse is a house with a runner that has job 5, and a GitLab that answers at once.
func benchHouse(b *testing.B, up http.Handler, secure bool, rate int64) (h *house, upURL string, c *http.Client) {
	b.Helper()
	server := httptest.NewUnstartedServer(up)
	if rate > 0 {
		server.Listener = pacedListener{server.Listener, rate}
	}
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	b.Cleanup(server.Close)
	h = newHouse(b, func(h *house) {
		h.cfg.KeepAliveMS, h.cfg.AckMS = 60_000, 600_000
		if secure {
			tr, err := newTransport("")
			require.NoError(b, err)
			tr.TLSClientConfig.RootCAs = server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
			h.aim.base = tr
		}
	})
	r := h.runner(1)
	h.grant("5")
	_, _, err := r.request(b.Context())
	require.NoError(b, err)
	r.must("5", "running")
	h.aim.at(b, server.URL)
	c = server.Client()
	c.Transport.(*http.Transport).TLSNextProto = map[string]func(string, *tls.Conn) http.RoundTripper{}
	return h, server.URL, c
}

// BenchmarkCall measures what the proxy adds to a runner's touch of its job: direct
// and through it in turns, so that both see the same machine.
func BenchmarkCall(b *testing.B) {
	h, direct, c := benchHouse(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Job-Status", "running")
	}), false, 0)
	body := fmt.Sprintf(`{"token":%q,"state":"running","checksum":"crc32:00000000","output":{"checksum":"crc32:00000000","bytesize":0}}`, jobToken+"5")
	call := func(base string) time.Duration {
		begin := time.Now()
		req, err := http.NewRequest(http.MethodPut, base+"/api/v4/jobs/5", strings.NewReader(body))
		require.NoError(b, err)
		req.Header.Set("Job-Token", jobToken+"5")
		resp, err := c.Do(req)
		require.NoError(b, err)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		require.Equal(b, 200, resp.StatusCode)
		return time.Since(begin)
	}
	through := "http://" + h.addr + "/slot1"
	for range 50 {
		call(direct)
		call(through)
	}
	var d, p []time.Duration
	for b.Loop() {
		d, p = append(d, call(direct)), append(p, call(through))
	}
	at := func(s []time.Duration, q float64) float64 {
		slices.Sort(s)
		return float64(s[int(q*float64(len(s)-1))]) / 1e6
	}
	b.ReportMetric(at(p, 0.5)-at(d, 0.5), "added-p50-ms")
	b.ReportMetric(at(p, 0.99)-at(d, 0.99), "added-p99-ms")
	b.ReportMetric(at(p, 0.99), "p99-ms")
}

// BenchmarkArtifacts measures streams: through the proxy against direct, up and down,
// over a link of 1 Gbit/s and as fast as this machine's processors go. The latter is a
// measure of processors: client, proxy and server share them.
func BenchmarkArtifacts(b *testing.B) {
	for _, link := range []struct {
		name string
		rate int64 // bytes per second
		size int64
		tls  bool
	}{
		{"1Gbit", 125e6, 64 << 20, false},
		{"1Gbit-tls", 125e6, 64 << 20, true},
		{"loopback", 0, 256 << 20, false},
		{"loopback-tls", 0, 256 << 20, true},
	} {
		h, direct, c := benchHouse(b, artifactServer(link.size), link.tls, link.rate)
		for dir, method := range map[string]string{"up": http.MethodPost, "down": http.MethodGet} {
			b.Run(dir+"/"+link.name, func(b *testing.B) {
				through := "http://" + h.addr + "/slot1"
				move(b, c, method, direct, link.size)
				move(b, c, method, through, link.size)
				var d, p, dc, pc time.Duration
				for b.Loop() {
					t0 := processTime()
					d += move(b, c, method, direct, link.size)
					t1 := processTime()
					p += move(b, c, method, through, link.size)
					dc, pc = dc+t1-t0, pc+processTime()-t1
				}
				gib := float64(link.size) * float64(b.N) / (1 << 30)
				b.ReportMetric(float64(dc)/float64(pc), "of-direct-by-CPU")
				b.ReportMetric(dc.Seconds()/gib, "direct-CPU-s/GiB")
				b.ReportMetric(pc.Seconds()/gib, "CPU-s/GiB")
				b.ReportMetric(float64(d)/float64(p), "of-direct")
				b.ReportMetric(float64(link.size)*float64(b.N)/p.Seconds()/1e6, "MB/s")
				b.ReportMetric(float64(link.size)*float64(b.N)/d.Seconds()/1e6, "direct-MB/s")
			})
		}
	}
}

func artifactServer(size int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			if n, _ := io.Copy(io.Discard, r.Body); n != size {
				w.WriteHeader(400)
			}
			return
		}
		io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(zeros{}, size), make([]byte, 256<<10))
	})
}

// move moves an archive and says how long it took.
func move(b testing.TB, c *http.Client, method, base string, size int64) time.Duration {
	begin := time.Now()
	job, body := "11", io.Reader(nil)
	if method == http.MethodPost {
		job, body = "5", io.LimitReader(zeros{}, size)
	}
	req, err := http.NewRequest(method, base+"/api/v4/jobs/"+job+"/artifacts", body)
	require.NoError(b, err)
	req.Header.Set("Job-Token", jobToken+"5")
	resp, err := c.Do(req)
	require.NoError(b, err)
	_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 256<<10))
	require.NoError(b, err)
	resp.Body.Close()
	require.Equal(b, 200, resp.StatusCode)
	return time.Since(begin)
}

// pacedListener has connections that are as fast as a link.
type pacedListener struct {
	net.Listener
	rate int64
}

func (l pacedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &pacedConn{Conn: c, rate: l.rate}, err
}

type pacedConn struct {
	net.Conn
	rate int64
	mu   sync.Mutex
	free time.Time // when the link has room again
}

func (c *pacedConn) pace(n int) {
	c.mu.Lock()
	now := time.Now()
	if c.free.Before(now.Add(-5 * time.Millisecond)) { // what a buffer in the net holds
		c.free = now.Add(-5 * time.Millisecond)
	}
	c.free = c.free.Add(time.Duration(int64(n) * int64(time.Second) / c.rate))
	wait := c.free.Sub(now)
	c.mu.Unlock()
	if wait > time.Millisecond {
		time.Sleep(wait)
	}
}

func (c *pacedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 64<<10)])
	c.pace(n)
	return n, err
}

func (c *pacedConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var m int
		m, err = c.Conn.Write(p[:min(len(p), 64<<10)])
		c.pace(m)
		n, p = n+m, p[m:]
	}
	return n, err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// BenchmarkHeld measures the memory of 200 requests that wait for jobs.
func BenchmarkHeld(b *testing.B) {
	const polls = 200
	for b.Loop() {
		h := newHouse(b, func(h *house) {
			h.cfg.Slots, h.cfg.HoldMS = nil, 60_000
			for i := range polls {
				h.cfg.Slots = append(h.cfg.Slots, Slot{Number: i + 1, Token: fmt.Sprintf("%s%d", slotToken, i+1)})
			}
		})
		before := heap()
		ctx, cancel := context.WithCancel(b.Context())
		var all sync.WaitGroup
		c := &http.Client{Transport: &http.Transport{}}
		for i := range polls {
			all.Go(func() {
				body := `{` + twoPhase + `,"token":"` + h.cfg.Slots[i].Token + `"}`
				req, _ := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://%s/slot%d/api/v4/jobs/request", h.addr, i+1), strings.NewReader(body))
				if resp, err := c.Do(req); err == nil {
					b.Error("answered: ", resp.StatusCode)
				}
			})
		}
		for {
			h.agent.mu.Lock()
			n := len(h.agent.offers)
			h.agent.mu.Unlock()
			if n == polls {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		b.ReportMetric(float64(heap()-before)/1e6, "MB-with-the-clients")
		cancel()
		all.Wait()
		h.stop()
	}
}

// heap is what is in use, stacks included.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
