package gitlab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	// maxJob bounds a job's payload; a larger one can't be taken.
	maxJob = 16 << 20
	// maxAnswer is how much is read of an answer that says nothing of use.
	maxAnswer = 64 << 10
	// callTimeout bounds every call but the one that may bring a job.
	callTimeout = 30 * time.Second
)

// client makes the calls of a runner to one server. Redirects are not followed: a
// token goes to the address that was configured and nowhere else.
type client struct {
	url   string // normal
	http  *http.Client
	agent string
}

func newClient(url string, rt http.RoundTripper, agent string) *client {
	return &client{url: url, agent: agent, http: &http.Client{
		Transport:     rt,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// status is the answer of a call on a job: what the server says of the job as well.
type status struct {
	code int
	// job is the Job-Status header.
	job string
	// size is where the log ends, of a refused PATCH; -1 if that was not said.
	size  int
	after time.Duration // Retry-After
}

// over reports whether the job is not ours to run any more. What is refused for a job
// that is said to live is no end of it.
func (s status) over() bool {
	switch s.job {
	case "canceled", "failed", "success", "skipped":
		return true
	case "":
		return s.code == http.StatusForbidden || s.code == http.StatusNotFound
	}
	return false
}

// canceling reports whether somebody asked for the job's end.
func (s status) canceling() bool { return s.job == "canceling" }

func (c *client) do(ctx context.Context, method, path, header, token string, body []byte, more ...string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.url+"/api/v4/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set(header, token)
	req.Header.Set("User-Agent", c.agent)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	for i := 0; i+1 < len(more); i += 2 {
		req.Header.Set(more[i], more[i+1])
	}
	return c.http.Do(req)
}

// poll is the answer to a request for a job.
type poll struct {
	code       int
	body       []byte // of a job
	lastUpdate string // "" if it was not said
	after      time.Duration
}

// errTooLarge says that a job's payload is beyond all bounds.
var errTooLarge = fmt.Errorf("%w: longer than %d MiB", ErrPayload, maxJob>>20)

// request asks for a job. ctx should not end while it runs: a job may be on its way.
func (c *client) request(ctx context.Context, token Secret, body []byte) (poll, error) {
	resp, err := c.do(ctx, http.MethodPost, "jobs/request", "RUNNER-TOKEN", string(token), body)
	if err != nil {
		return poll{}, err
	}
	defer resp.Body.Close()
	p := poll{code: resp.StatusCode, lastUpdate: resp.Header.Get("X-Gitlab-Last-Update"), after: retryAfter(resp)}
	if p.code != http.StatusCreated {
		drain(resp)
		return p, nil
	}
	p.body, err = io.ReadAll(io.LimitReader(resp.Body, maxJob+1))
	if err == nil && len(p.body) > maxJob {
		err = errTooLarge
	}
	return p, err
}

// update tells how a job stands.
func (c *client) update(ctx context.Context, job int64, token Secret, state, reason string) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	in := map[string]any{"token": string(token), "state": state}
	if reason != "" {
		in["failure_reason"] = reason
	}
	body, err := json.Marshal(in)
	if err != nil {
		return status{}, err
	}
	resp, err := c.do(ctx, http.MethodPut, "jobs/"+strconv.FormatInt(job, 10), "JOB-TOKEN", string(token), body)
	if err != nil {
		return status{}, err
	}
	defer resp.Body.Close()
	drain(resp)
	return statusOf(resp), nil
}

// end tells that a job failed. One that nobody acknowledged can't fail: it has to run
// first.
func (c *client) end(ctx context.Context, job int64, token Secret, reason string) (status, error) {
	st, err := c.update(ctx, job, token, "failed", reason)
	if err != nil || st.code != http.StatusBadRequest || st.over() {
		return st, err
	}
	if st, err = c.update(ctx, job, token, "running", ""); err != nil || st.code >= 300 {
		return st, err
	}
	return c.update(ctx, job, token, "failed", reason)
}

// errOffset says that an answer to a PATCH makes no sense.
var errOffset = errors.New("the answer names no size of the log")

// patch writes text into a job's log at an offset.
func (c *client) patch(ctx context.Context, job int64, token Secret, at int, text []byte) (status, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodPatch, "jobs/"+strconv.FormatInt(job, 10)+"/trace?debug_trace=false", "JOB-TOKEN", string(token), text,
		"Content-Type", "text/plain", "Content-Range", fmt.Sprintf("%d-%d", at, at+len(text)-1))
	if err != nil {
		return status{}, err
	}
	defer resp.Body.Close()
	drain(resp)
	s := statusOf(resp)
	if s.code == http.StatusRequestedRangeNotSatisfiable && s.size < 0 {
		return s, errOffset
	}
	return s, nil
}

func statusOf(r *http.Response) status {
	s := status{code: r.StatusCode, job: r.Header.Get("Job-Status"), size: -1, after: retryAfter(r)}
	if _, end, ok := strings.Cut(r.Header.Get("Range"), "-"); ok {
		if n, err := strconv.Atoi(end); err == nil && n >= 0 {
			s.size = n
		}
	}
	return s
}

// drain reads what is left of an answer, so that its connection can be used again.
func drain(r *http.Response) {
	io.Copy(io.Discard, io.LimitReader(r.Body, maxAnswer)) //nolint:errcheck // nothing in it is of use
}

// retryAfter is how long the server asks to be left alone, 0 if it does not.
func retryAfter(r *http.Response) time.Duration {
	n, err := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || n < 0 {
		return 0
	}
	return min(time.Duration(n)*time.Second, 10*time.Minute)
}
