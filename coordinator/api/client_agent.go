package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Register announces a host; see Register for what it says. Repeating it is fine.
func (c *Client) Register(ctx context.Context, r Register) (*Registered, error) {
	var out Registered
	err := c.do(ctx, call{method: "POST", path: "/v1/agents:register", in: r}, &out)
	return &out, err
}

// Heartbeat renews the leases of agent. CodeNotFound means: register again.
func (c *Client) Heartbeat(ctx context.Context, agent snapshot.ID, h Heartbeat) (*HeartbeatReply, error) {
	var out HeartbeatReply
	err := c.do(ctx, call{method: "POST", path: "/v1/agents/" + string(agent) + ":heartbeat", in: h}, &out)
	return &out, err
}

// Claims asks for work and waits up to r.WaitMS for it. A claim whose answer was
// lost is given again under the same attempt and epoch until it is accepted.
func (c *Client) Claims(ctx context.Context, agent snapshot.ID, r ClaimRequest) (*Claims, error) {
	var out Claims
	err := c.do(ctx, call{
		method: "POST", path: "/v1/agents/" + string(agent) + "/claims", in: r,
		wait: time.Duration(r.WaitMS) * time.Millisecond,
	}, &out)
	return &out, err
}

// Leave says good-bye: what runs on agent is lost, its name is free.
func (c *Client) Leave(ctx context.Context, agent snapshot.ID, l Leave) error {
	return c.do(ctx, call{method: "POST", path: "/v1/agents/" + string(agent) + ":leave", in: l}, nil)
}

// Accept takes a claim. CodeFenced means that it went to somebody else, here and
// in the calls below.
func (c *Client) Accept(ctx context.Context, r AttemptRef) error {
	return c.do(ctx, call{method: "POST", path: attemptPath(r.Attempt, ":accept"), header: epoch(r), in: Accept{}}, nil)
}

// Start says that the script of an accepted attempt begins.
func (c *Client) Start(ctx context.Context, r AttemptRef, s Start) error {
	return c.do(ctx, call{method: "POST", path: attemptPath(r.Attempt, ":start"), header: epoch(r), in: s}, nil)
}

// Finish ends an attempt. When it returns nil the outcome is durable. It may be
// repeated; the first outcome counts.
func (c *Client) Finish(ctx context.Context, r AttemptRef, f Finish) (*Finished, error) {
	var out Finished
	err := c.do(ctx, call{method: "POST", path: attemptPath(r.Attempt, ":finish"), header: epoch(r), in: f}, &out)
	return &out, err
}

// AppendLog adds p to an attempt's log at offset and returns where the next byte
// goes. Bytes that are there already are skipped. *OffsetError says that bytes
// before offset are missing, and from where on to send.
func (c *Client) AppendLog(ctx context.Context, r AttemptRef, offset int64, p []byte) (int64, error) {
	next := offset + int64(len(p))
	if len(p) == 0 {
		return next, nil
	}
	h := epoch(r)
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Range", fmt.Sprintf("%d-%d", offset, next-1))
	err := c.send(ctx, call{method: "PATCH", path: attemptPath(r.Attempt, "/log"), header: h, raw: p}, func(res *http.Response) error {
		if n, err := strconv.ParseInt(res.Header.Get(HeaderOffset), 10, 64); err == nil {
			next = n
		}
		return nil
	})
	return next, err
}

// PutSnapshot reports the facts of a packed snapshot, and once more with Durable
// when all of it is in the blob store.
func (c *Client) PutSnapshot(ctx context.Context, l LayerRef) error {
	return c.do(ctx, call{method: "PUT", path: "/v1/snapshots/" + string(l.ID), in: l}, nil)
}
