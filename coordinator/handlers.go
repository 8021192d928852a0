package coordinator

import (
	"net/http"
	"strconv"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/internal/fail"
	"github.com/roost-ci/roost/snapshot"
)

// Bounds of what a host may say about itself.
const (
	maxName  = 128
	maxTags  = 64
	maxSlots = 4096
)

// handlers has one handler for each route.
func handlers() map[string]handler {
	return map[string]handler{
		api.RouteSubmit: (*call).submit, api.RoutePipelines: (*call).pipelines, api.RoutePipeline: (*call).pipeline,
		api.RouteCancelPipeline: (*call).cancel, api.RouteEvents: (*call).events, api.RouteJob: (*call).job,
		api.RouteLog: (*call).readLog, api.RouteHosts: (*call).hosts,
		api.RouteRegister: (*call).register, api.RouteHeartbeat: (*call).heartbeat, api.RouteClaims: (*call).claims,
		api.RouteLeave: (*call).leave, api.RouteAccept: (*call).accept, api.RouteStart: (*call).start,
		api.RouteFinish: (*call).finish, api.RouteAppendLog: (*call).appendLog, api.RouteSnapshot: (*call).snapshot,
		api.RouteGetBlob: (*call).blob, api.RouteHeadBlob: (*call).blob, api.RoutePutBlob: (*call).blob,
		api.RouteGetRef: (*call).blob, api.RoutePutRef: (*call).blob,
		api.RouteGitGet: (*call).gitRefs, api.RouteGitPost: (*call).gitPack,
		api.RouteHealth: (*call).health, api.RoutePage: (*call).page, api.RoutePagePipeline: (*call).pagePipeline,
		api.RoutePageLog: (*call).pageLog, api.RoutePageStyle: (*call).pageStyle, api.RouteMetrics: (*call).metrics,
	}
}

func (c *call) health() error { return c.json(200, map[string]string{"status": "ok"}) }

func (c *call) submit() error {
	var in api.Submit
	if err := c.body(&in); err != nil {
		return err
	}
	out, created, err := c.s.submit(c.r.Context(), c.r.Header.Get(api.HeaderKey), in)
	if err != nil {
		return err
	}
	if created {
		return c.json(201, out)
	}
	return c.json(200, out)
}

func (c *call) cancel() error {
	id, err := c.s.pipelineID(c.r.Context(), c.args["id"])
	if err != nil {
		return err
	}
	if err := c.s.do(c.r.Context(), func(t *txn) error { return t.cancel(id) }); err != nil {
		return err
	}
	return c.json(200, struct{}{})
}

func (c *call) register() error {
	var in api.Register
	if err := c.body(&in); err != nil {
		return err
	}
	if err := checkRegister(in); err != nil {
		return err
	}
	if err := c.mayRegister(in); err != nil {
		return err
	}
	if err := c.s.checkPool(in.Name, in.Pool); err != nil {
		return err
	}
	told, err := c.s.told(c.r.Context(), in.Attempts)
	if err != nil {
		return err
	}
	var out *api.Registered
	if err := c.s.do(c.r.Context(), func(t *txn) (err error) {
		out, err = t.register(in, told)
		return err
	}); err != nil {
		return err
	}
	c.s.log.Info("host registered", "host", in.Name, "slots", in.Slots, "driver", in.Driver)
	return c.json(200, out)
}

// id reads an id from the path: that of an agent, an attempt, or what an attempt left, which
// a host's own token has to be for.
func (c *call) id(name string) (snapshot.ID, error) {
	id, err := snapshot.ParseID(c.args[name])
	if err != nil {
		return "", invalid("%s: %v", name, err)
	}
	return id, c.owns(name, id)
}

func (c *call) heartbeat() error {
	agent, err := c.id("agent")
	if err != nil {
		return err
	}
	var in api.Heartbeat
	if err := c.body(&in); err != nil {
		return err
	}
	tidyHeartbeat(&in)
	if err := checkHoldings(in.Holdings); err != nil {
		return err
	}
	if len(in.Attempts) > maxSlots {
		return invalid("%d attempts are more than a host can have", len(in.Attempts))
	}
	told, err := c.s.told(c.r.Context(), in.Attempts)
	if err != nil {
		return err
	}
	var out *api.HeartbeatReply
	if err := c.s.do(c.r.Context(), func(t *txn) (err error) {
		out, err = t.heartbeat(agent, in, told)
		return err
	}); err != nil {
		return err
	}
	if c.s.o.Missing != nil {
		out.Missing = c.s.o.Missing()
	}
	return c.json(200, out)
}

func (c *call) claims() error {
	agent, err := c.id("agent")
	if err != nil {
		return err
	}
	var in api.ClaimRequest
	if err := c.body(&in); err != nil {
		return err
	}
	if err := checkOffers(in); err != nil {
		return err
	}
	out, err := c.s.claims(c.r.Context(), agent, in, c.base())
	if err != nil {
		return err
	}
	return c.json(200, out)
}

// base is the address under which the caller reached us.
func (c *call) base() string {
	if c.s.o.TLS != nil {
		return "https://" + c.r.Host
	}
	return "http://" + c.r.Host
}

func (c *call) leave() error {
	agent, err := c.id("agent")
	if err != nil {
		return err
	}
	var in api.Leave
	if err := c.body(&in); err != nil {
		return err
	}
	if err := c.s.do(c.r.Context(), func(t *txn) error { return t.leave(agent, in.Session) }); err != nil {
		return err
	}
	return c.json(200, struct{}{})
}

// attempt reads which attempt a call is about, and under which epoch.
func (c *call) attempt() (api.AttemptRef, error) {
	id, err := c.id("attempt")
	if err != nil {
		return api.AttemptRef{}, err
	}
	n, err := strconv.ParseInt(c.r.Header.Get(api.HeaderEpoch), 10, 64)
	if err != nil || n < 1 {
		return api.AttemptRef{}, invalid("the header %s carries the attempt's epoch", api.HeaderEpoch)
	}
	return api.AttemptRef{Attempt: id, Epoch: n}, nil
}

func (c *call) accept() error {
	ref, err := c.attempt()
	if err != nil {
		return err
	}
	if err := c.s.do(c.r.Context(), func(t *txn) error {
		fail.Point("coordinator.accept")
		return t.accept(ref)
	}); err != nil {
		return err
	}
	fail.Point("coordinator.accept.committed")
	return c.json(200, struct{}{})
}

func (c *call) start() error {
	ref, err := c.attempt()
	if err != nil {
		return err
	}
	var in api.Start
	if err := c.body(&in); err != nil {
		return err
	}
	tidyWorkspace(&in.Workspace)
	if err := c.s.do(c.r.Context(), func(t *txn) error { return t.start(ref, in) }); err != nil {
		return err
	}
	return c.json(200, struct{}{})
}

func (c *call) finish() error {
	ref, err := c.attempt()
	if err != nil {
		return err
	}
	var in api.Finish
	if err := c.body(&in); err != nil {
		return err
	}
	if err := checkFinish(in); err != nil {
		return err
	}
	tidyFinish(&in)
	out, err := c.s.finish(c.r.Context(), ref, in)
	if err != nil {
		return err
	}
	return c.json(200, out)
}

// maxParents bounds the inputs of one job.
const maxParents = 4096

func (c *call) snapshot() error {
	id, err := c.id("id")
	if err != nil {
		return err
	}
	var in api.LayerRef
	if err := c.body(&in); err != nil {
		return err
	}
	if err := checkLayer(id, in); err != nil {
		return err
	}
	adopt, err := c.s.adopt(c.r.Context(), id)
	if err != nil {
		return err
	}
	if err := c.s.do(c.r.Context(), func(t *txn) error {
		fail.Point("coordinator.snapshot")
		adopt(t)
		return t.putSnapshot(in)
	}); err != nil {
		return err
	}
	fail.Point("coordinator.snapshot.committed")
	return c.json(200, struct{}{})
}

func (c *call) blob() error {
	if c.s.o.Blobs == nil {
		return &api.Error{HTTP: 404, Code: api.CodeNotFound, Text: "this coordinator keeps no blobs"}
	}
	if id, ok := c.args["id"]; ok { // a ref
		if _, err := snapshot.ParseID(id); err != nil {
			return invalid("ref: %v", err)
		}
	} else if _, err := snapshot.ParseDigest(c.args["digest"]); err != nil {
		return invalid("blob: %v", err)
	}
	http.StripPrefix("/v1/blobs", c.s.o.Blobs).ServeHTTP(c.w, c.r)
	return nil
}
