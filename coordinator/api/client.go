package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Bounds of what a client believes.
const (
	maxAnswer = 64 << 20
	maxError  = 1 << 20
	// callTimeout ends a call that hangs; long-polls get their wait on top.
	callTimeout = 30 * time.Second
)

// Client calls a coordinator. It is safe for use by several goroutines. It does
// not retry: the caller knows what may be repeated. An answer above 399 is an
// *Error; everything else (no connection, a time-out, a body that breaks off) is
// Unreachable.
type Client struct {
	base  *url.URL
	token string
	http  *http.Client
}

// NewClient makes a client for the coordinator at base, such as
// http://127.0.0.1:7000. A nil c gets a client of its own.
func NewClient(base, token string, c *http.Client) (*Client, error) {
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("coordinator's address: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("coordinator's address %q: want http://host:port or https://host:port", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	u.RawQuery, u.Fragment = "", ""
	if c == nil {
		c = &http.Client{
			Transport: &http.Transport{
				Proxy:               nil, // an environment's proxy is for the jobs, not for us
				DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
				MaxIdleConnsPerHost: 16,
				IdleConnTimeout:     90 * time.Second,
				TLSHandshakeTimeout: 10 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &Client{base: u, token: token, http: c}, nil
}

// Base is the coordinator's address without a trailing slash.
func (c *Client) Base() string { return c.base.String() }

// Token is the bearer token of every call.
func (c *Client) Token() string { return c.token }

// BlobsURL is where blobs are: a blob is BlobsURL + "/" + its digest.
func (c *Client) BlobsURL() string { return c.Base() + "/v1/blobs" }

// UnreachableError says that a call got no answer, so that nobody knows whether
// it had an effect. Every call of this interface may be repeated then.
type UnreachableError struct {
	Call string
	Err  error
}

func (e *UnreachableError) Error() string {
	err := e.Err
	var u *url.Error // names method and URL once more
	if errors.As(err, &u) {
		err = u.Err
	}
	return fmt.Sprintf("coordinator does not answer (%s): %v", e.Call, err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Unreachable reports whether err means that the coordinator gave no answer, or
// one of its own faults: the call may be repeated.
func Unreachable(err error) bool {
	var u *UnreachableError
	if errors.As(err, &u) {
		return true
	}
	var e *Error
	return errors.As(err, &e) && e.HTTP >= 500
}

// OffsetError answers AppendLog when bytes are missing before the offset.
type OffsetError struct{ Want int64 }

func (e *OffsetError) Error() string {
	return fmt.Sprintf("log goes on at byte %d", e.Want)
}

// call is one request. in is JSON or, when raw is set, raw; out may be nil.
type call struct {
	method, path string
	query        url.Values
	header       http.Header
	wait         time.Duration
	in           any
	raw          []byte
}

// send makes the call and gives the answer to take, whatever its status below 400.
func (c *Client) send(ctx context.Context, q call, take func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout+q.wait)
	defer cancel()
	name := q.method + " " + q.path
	body := q.raw
	if q.in != nil {
		b, err := json.Marshal(q.in)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		body = b
	}
	u := *c.base
	u.Path += q.path
	u.RawQuery = q.query.Encode()
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	maps.Copy(req.Header, q.header)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if q.in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return &UnreachableError{Call: name, Err: err}
	}
	defer res.Body.Close() //nolint:errcheck // read to its end or given up
	if res.StatusCode >= 300 {
		return answerError(name, res)
	}
	if take == nil {
		_, err := io.Copy(io.Discard, io.LimitReader(res.Body, maxError))
		if err != nil {
			return &UnreachableError{Call: name, Err: err}
		}
		return nil
	}
	if err := take(res); err != nil {
		return &UnreachableError{Call: name, Err: err}
	}
	return nil
}

// answerError makes the error of an answer above 299.
func answerError(name string, res *http.Response) error {
	if res.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		if n, err := strconv.ParseInt(res.Header.Get(HeaderOffset), 10, 64); err == nil && n >= 0 {
			return &OffsetError{Want: n}
		}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxError))
	e := &Error{HTTP: res.StatusCode}
	if err != nil || json.Unmarshal(b, e) != nil || e.Text == "" {
		e.Text = fmt.Sprintf("%s: %s", name, res.Status)
	}
	e.HTTP = res.StatusCode
	return e
}

// do makes a call whose answer is JSON.
func (c *Client) do(ctx context.Context, q call, out any) error {
	if out == nil {
		return c.send(ctx, q, nil)
	}
	return c.send(ctx, q, func(res *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
		if err != nil {
			return err
		}
		if len(b) > maxAnswer {
			return fmt.Errorf("answer is longer than %d bytes", maxAnswer)
		}
		return json.Unmarshal(b, out)
	})
}

// epoch makes the header of a call on an attempt.
func epoch(r AttemptRef) http.Header {
	return http.Header{HeaderEpoch: {strconv.FormatInt(r.Epoch, 10)}}
}

// attemptPath is the path of a verb on an attempt.
func attemptPath(id snapshot.ID, verb string) string {
	return "/v1/attempts/" + string(id) + verb
}
