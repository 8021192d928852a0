package runner

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"
	mrand "math/rand/v2"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// userAgent is what every call says.
const userAgent = "gitlab-runner 19.4.0 (19-4-stable; go1.26; linux/amd64)"

// transportError is the status of a call that got no answer (1.0: "code -1").
const transportError = -1

// client makes the calls of one entry.
type client struct {
	c    *Config
	e    *Entry
	http *http.Client
	base string

	mu   sync.Mutex
	last string // X-GitLab-Last-Update, of this token
	// token, if set, has replaced the entry's.
	token string
}

func newClient(c *Config, e *Entry) *client {
	base := strings.TrimSuffix(strings.TrimSuffix(e.URL, "/"), "/ci")
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 10 * time.Minute
	t.MaxIdleConnsPerHost = 8
	return &client{
		c: c, e: e, base: strings.TrimSuffix(base, "/") + "/api/v4/",
		http: &http.Client{Transport: t, Timeout: time.Hour},
	}
}

// retryable are the statuses that are tried again within a call: no others, and
// never an error of the transport (1.0).
func retryable(status int) bool {
	switch status {
	case 408, 429, 500, 502, 503, 504:
		return true
	}
	return status >= 512
}

// do makes a call, again after some answers, five times in all. The caller closes
// the answer's body.
func (cl *client) do(ctx context.Context, method, path string, header http.Header, body []byte) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, method, cl.base+path, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		req.Header = header.Clone()
		req.Header.Set("User-Agent", userAgent)
		var id [16]byte
		rand.Read(id[:])
		req.Header.Set("X-Request-Id", hex.EncodeToString(id[:]))
		resp, err := cl.http.Do(req)
		if err != nil {
			return nil, err
		}
		if cl.c.broken(RetryStatus) || !retryable(resp.StatusCode) || attempt == 4 {
			return resp, nil
		}
		wait := retryAfter(resp.Header, attempt)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if !cl.c.sleep(ctx, wait) {
			return nil, ctx.Err()
		}
	}
}

// retryAfter is what the server says, or 100 ms, doubled each time, with jitter, up
// to a minute.
func retryAfter(h http.Header, attempt int) time.Duration {
	if t, err := time.Parse(time.RFC1123, h.Get("RateLimit-ResetTime")); err == nil {
		if d := time.Until(t); d > 0 {
			return d
		}
	}
	if s, err := strconv.Atoi(h.Get("Retry-After")); err == nil && s > 0 {
		return time.Duration(s) * time.Second
	}
	d := min(100*time.Millisecond*time.Duration(math.Pow(2, float64(attempt))), time.Minute)
	return 100*time.Millisecond + time.Duration(mrand.Float64()*float64(d-100*time.Millisecond)) //nolint:gosec // jitter
}

// sleep waits for d of the rules' time; false when ctx ended before.
func (c *Config) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(c.scaled(d))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (cl *client) json(ctx context.Context, method, path string, header http.Header, in any) (*http.Response, []byte, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return nil, nil, err
	}
	header = header.Clone()
	header.Set("Content-Type", "application/json")
	header.Set("Accept", "application/json")
	resp, err := cl.do(ctx, method, path, header, b)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	return resp, out, err
}

func (cl *client) runnerHeader() http.Header {
	return http.Header{"Runner-Token": {cl.runnerToken()}}
}

// runnerToken is the entry's, or the one that replaced it.
func (cl *client) runnerToken() string {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return cmp.Or(cl.token, cl.e.Token)
}

// verify is call 1. It says whether the token is good, and when it is to be replaced:
// after three quarters of its life, zero never.
func (cl *client) verify(ctx context.Context) (good bool, rotate time.Time, err error) {
	resp, out, err := cl.json(ctx, "POST", "runners/verify", cl.runnerHeader(),
		map[string]any{"token": cl.runnerToken(), "system_id": cl.c.SystemID, "info": cl.info()})
	if err != nil {
		return false, rotate, err
	}
	if resp.StatusCode == http.StatusForbidden {
		return false, rotate, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, rotate, fmt.Errorf("verify: %s", resp.Status)
	}
	var answer struct {
		TokenExpiresAt *time.Time `json:"token_expires_at"`
	}
	if json.Unmarshal(out, &answer) == nil && answer.TokenExpiresAt != nil { // old servers answer with plain text
		now := time.Now()
		rotate = now.Add(answer.TokenExpiresAt.Sub(now) * 3 / 4)
	}
	return true, rotate, nil
}

// reset is call 2: it replaces the token by a new one.
func (cl *client) reset(ctx context.Context) error {
	resp, out, err := cl.json(ctx, "POST", "runners/reset_authentication_token", cl.runnerHeader(), map[string]any{"token": cl.runnerToken()})
	if err != nil {
		return err
	}
	var answer struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(out, &answer); err != nil || resp.StatusCode != http.StatusCreated || answer.Token == "" {
		return fmt.Errorf("reset of the token: %s", resp.Status)
	}
	cl.mu.Lock()
	cl.token = answer.Token
	cl.mu.Unlock()
	return nil
}

// routed is call 4: whether the server sends the runner elsewhere for its jobs.
func (cl *client) routed(ctx context.Context) bool {
	h := cl.runnerHeader()
	resp, err := cl.do(ctx, "GET", "runners/router/discovery", h, nil)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// request is call 5. healthy is false for what counts against the entry (1.1), more
// says that there may be another job at once.
func (cl *client) request(ctx context.Context) (job *Job, healthy bool, status int) {
	token := cl.runnerToken()
	cl.mu.Lock()
	body := map[string]any{"info": cl.info(), "token": token, "system_id": cl.c.SystemID}
	if cl.last != "" && !cl.c.broken(LastUpdate) {
		body["last_update"] = cl.last
	}
	cl.mu.Unlock()
	if cl.c.broken(BodyToken) {
		delete(body, "token")
	}
	resp, out, err := cl.json(ctx, "POST", "jobs/request", cl.runnerHeader(), body)
	if err != nil {
		return nil, true, transportError
	}
	if v := resp.Header.Get("X-GitLab-Last-Update"); v != "" {
		cl.mu.Lock()
		cl.last = v
		cl.mu.Unlock()
	}
	if resp.StatusCode != http.StatusCreated {
		return nil, resp.StatusCode != http.StatusForbidden, resp.StatusCode
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if (err != nil || kind != "application/json") && !cl.c.broken(JSONOnly) {
		return nil, true, transportError
	}
	j := new(Job)
	if err := json.Unmarshal(out, j); err != nil {
		return nil, true, transportError
	}
	j.correlation = resp.Header.Get("X-Request-Id")
	return j, true, resp.StatusCode
}
