package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Submit starts a pipeline. key makes it safe to repeat: the same key and body
// give the same pipeline. A file with mistakes is an *Error with CodePipeline and
// its Problems.
func (c *Client) Submit(ctx context.Context, key string, s Submit) (*Submitted, error) {
	var out Submitted
	err := c.do(ctx, call{
		method: "POST", path: "/v1/pipelines", in: s,
		header: http.Header{HeaderKey: {key}},
	}, &out)
	return &out, err
}

// Pipelines lists the newest n pipelines, newest first and without their jobs; of
// one project unless that is "".
func (c *Client) Pipelines(ctx context.Context, project string, n int) ([]Pipeline, error) {
	var out []Pipeline
	q := url.Values{"n": {strconv.Itoa(n)}}
	if project != "" {
		q.Set("project", project)
	}
	err := c.do(ctx, call{method: "GET", path: "/v1/pipelines", query: q}, &out)
	return out, err
}

// Pipeline gets one pipeline by its ULID or number.
func (c *Client) Pipeline(ctx context.Context, id string) (*Pipeline, error) {
	var out Pipeline
	err := c.do(ctx, call{method: "GET", path: "/v1/pipelines/" + id}, &out)
	return &out, err
}

// CancelPipeline ends every job that has not ended. It returns when that is
// recorded; running jobs hear of it by their agents' next heartbeat.
func (c *Client) CancelPipeline(ctx context.Context, id string) error {
	return c.do(ctx, call{method: "POST", path: "/v1/pipelines/" + id + ":cancel"}, nil)
}

// Events gets the events after a sequence number, waiting up to wait for the first.
func (c *Client) Events(ctx context.Context, id string, after int64, wait time.Duration) ([]Event, error) {
	var out []Event
	q := url.Values{"after": {strconv.FormatInt(after, 10)}, "wait": {wait.String()}}
	err := c.do(ctx, call{method: "GET", path: "/v1/pipelines/" + id + "/events", query: q, wait: wait}, &out)
	return out, err
}

// Job gets one job by its id.
func (c *Client) Job(ctx context.Context, id string) (*JobDetail, error) {
	var out JobDetail
	err := c.do(ctx, call{method: "GET", path: "/v1/jobs/" + id}, &out)
	return &out, err
}

// Hosts lists every host that is or was registered, by name.
func (c *Client) Hosts(ctx context.Context) ([]Host, error) {
	var out []Host
	err := c.do(ctx, call{method: "GET", path: "/v1/hosts"}, &out)
	return out, err
}

// LogChunk is a piece of an attempt's log. Ended says that nothing comes after it.
type LogChunk struct {
	Data  []byte
	Next  int64 // offset to ask for next
	Ended bool
}

// Log reads an attempt's log from offset, waiting up to wait for the first byte.
func (c *Client) Log(ctx context.Context, attempt snapshot.ID, offset int64, wait time.Duration) (*LogChunk, error) {
	out := &LogChunk{Next: offset}
	q := url.Values{"offset": {strconv.FormatInt(offset, 10)}, "wait": {wait.String()}}
	err := c.send(ctx, call{method: "GET", path: attemptPath(attempt, "/log"), query: q, wait: wait}, func(res *http.Response) error {
		b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
		if err != nil {
			return err
		}
		out.Data, out.Next = b, offset+int64(len(b))
		end, _ := strconv.ParseInt(res.Header.Get(HeaderOffset), 10, 64)
		out.Ended = res.Header.Get(HeaderLogEnd) == "true" && out.Next >= end
		return nil
	})
	return out, err
}

// Health reports whether the coordinator is up. It needs no token.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, call{method: "GET", path: "/healthz"}, nil)
}
