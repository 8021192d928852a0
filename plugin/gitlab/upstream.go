package gitlab

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// maxAnswer bounds an answer that is kept in memory. The runner's calls have
// answers of some hundred bytes.
const maxAnswer = 4 << 20

// upstream is GitLab: one origin, and nothing else is ever called.
type upstream struct {
	base *url.URL // its path ends with "/"
	rt   http.RoundTripper
}

// answer is what GitLab said.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// jobStatus is the job's state as GitLab has it, "" if it didn't say.
func (a *answer) jobStatus() string { return a.header.Get("Job-Status") }

// over reports whether the job has ended in GitLab, or is none of its holder's any
// more: nothing said of it counts from now on. A job that waits for its runner to say
// that it has it is refused some calls too, and is not over.
func (a *answer) over() bool {
	switch a.jobStatus() {
	case "canceled", "failed", "success", "skipped":
		return true
	case "":
		return a.status == http.StatusForbidden || a.status == http.StatusNotFound
	}
	return false
}

// later reports whether the same call may be answered otherwise in a while.
func (a *answer) later() bool {
	return a.status >= 500 || a.status == http.StatusTooManyRequests || a.status == http.StatusRequestTimeout
}

// waits reports whether GitLab waits for the word that the job runs (two-phase
// commit), and refuses everything else until then.
func (a *answer) waits() bool {
	switch a.jobStatus() {
	case "canceling", "running":
		return false
	}
	return !a.over() && (a.status == http.StatusForbidden || a.status == http.StatusBadRequest)
}

func newUpstream(c *Config, rt http.RoundTripper) (*upstream, error) {
	base, err := url.Parse(c.URL)
	if err != nil {
		return nil, errors.New("gitlab: url: not a URL")
	}
	base.Path = strings.TrimSuffix(base.Path, "/") + "/"
	if rt == nil {
		t, err := newTransport(c.CAFile)
		if err != nil {
			return nil, err
		}
		rt = t
	}
	return &upstream{base: base, rt: rt}, nil
}

// newTransport speaks HTTP/1.1: artifacts are streams of gigabytes, one connection
// each, which the windows of HTTP/2 only slow down.
func newTransport(caFile string) (*http.Transport, error) {
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   30 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		TLSNextProto:          map[string]func(string, *tls.Conn) http.RoundTripper{},
		ResponseHeaderTimeout: 10 * time.Minute, // the runner's own
		ExpectContinueTimeout: 10 * time.Second,
		IdleConnTimeout:       2 * time.Minute,
		MaxIdleConnsPerHost:   32,
		DisableCompression:    true, // an archive goes through as it is
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
	}
	if caFile == "" {
		return t, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("gitlab: ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("gitlab: ca_file %s: no certificate in it", caFile)
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}

// request makes a request of checked parts. path and query are ours or a route's.
func (u *upstream) request(ctx context.Context, method, path, query string, body io.Reader) (*http.Request, error) {
	target := *u.base
	target.Path += path
	target.RawQuery = query
	return http.NewRequestWithContext(ctx, method, target.String(), body)
}

// callTimeout is how long GitLab may take for a call with a small body. Its own limit
// is a minute.
const callTimeout = 2 * time.Minute

// do makes one call with a small body and reads the answer. Redirects are answers.
// An error means that there was none.
func (u *upstream) do(ctx context.Context, method, path, query string, header http.Header, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := u.request(ctx, method, path, query, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	resp, err := u.rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", u.base.Host, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("answer of %s: more than %d bytes", u.base.Host, maxAnswer)
	}
	return &answer{status: resp.StatusCode, header: resp.Header, body: b}, nil
}

// hopHeaders hold for one connection only, or say where a request came from, which is
// nobody's business and could be believed.
var hopHeaders = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Forwarded", "X-Real-Ip", "Content-Length",
}

// cleanHeader is a header as it may go on to the other side.
func cleanHeader(h http.Header) http.Header {
	out := h.Clone()
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			out.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopHeaders {
		out.Del(name)
	}
	for name := range out {
		if strings.HasPrefix(name, "X-Forwarded-") {
			delete(out, name)
		}
	}
	return out
}
