package coordinator

import (
	"net/http"
	"strconv"
	"time"

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
		api.RouteGitGet: (*call).gitRefs, api.RouteGitPost: (*call).gitPack,
		api.RouteHealth: (*call).health, api.RoutePage: (*call).page, api.RoutePagePipeline: (*call).pagePipeline,
		api.RoutePageLog: (*call).pageLog, api.RoutePageStyle: (*call).pageStyle,
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

// checkRegister refuses a host that can't be one.
func checkRegister(r api.Register) error {
	if r.Name == "" || len(r.Name) > maxName || !printable(r.Name) {
		return invalid("a host's name has 1 to %d printable characters", maxName)
	}
	if r.Slots < 0 || r.Slots > maxSlots || len(r.Tags) > maxTags {
		return invalid("a host has 0 to %d slots and up to %d tags", maxSlots, maxTags)
	}
	for _, t := range append([]string{r.Driver, r.OS, r.Arch, r.Fingerprint, r.Version, r.BootID}, r.Tags...) {
		if len(t) > 4096 || !printable(t) {
			return invalid("%.80q is not a text that a host may say of itself", t)
		}
	}
	for _, id := range []snapshot.ID{r.StoreID, r.Session} {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return invalid("store or session: %v", err)
		}
	}
	if len(r.Attempts) > maxSlots {
		return invalid("%d attempts are more than a host can have", len(r.Attempts))
	}
	return checkHoldings(r.Holdings)
}

func checkHoldings(hs []api.Holding) error {
	for _, h := range hs {
		if _, err := snapshot.ParseID(string(h.ID)); err != nil || h.Bytes < 0 {
			return invalid("holding %.80q: not an id, or of negative size", h.ID)
		}
	}
	return nil
}

// id reads an id from the path.
func (c *call) id(name string) (snapshot.ID, error) {
	id, err := snapshot.ParseID(c.args[name])
	if err != nil {
		return "", invalid("%s: %v", name, err)
	}
	return id, nil
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
	out, err := c.s.finish(c.r.Context(), ref, in)
	if err != nil {
		return err
	}
	return c.json(200, out)
}

func checkFinish(f api.Finish) error {
	switch f.Status {
	case api.StatusSuccess, api.StatusFailed, api.StatusCanceled:
	default:
		return invalid("an attempt ends as success, failed or canceled, not as %q", f.Status)
	}
	if len(f.Parents) > maxParents || f.RunMS < 0 || f.Bytes < 0 {
		return invalid("up to %d parents, and no negative numbers", maxParents)
	}
	ids := f.Parents
	if f.Output != "" {
		ids = append([]snapshot.ID{f.Output}, ids...)
	}
	for _, id := range ids {
		if _, err := snapshot.ParseID(string(id)); err != nil {
			return invalid("output or parent: %v", err)
		}
	}
	return nil
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
	if _, err := snapshot.ParseDigest(c.args["digest"]); err != nil {
		return invalid("blob: %v", err)
	}
	http.StripPrefix("/v1/blobs", c.s.o.Blobs).ServeHTTP(c.w, c.r)
	return nil
}

// query reads a whole number from the query; absent is def.
func (c *call) query(name string, def int64) (int64, error) {
	v := c.r.URL.Query().Get(name)
	if v == "" {
		return def, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, invalid("%s: want a whole number that is not negative", name)
	}
	return n, nil
}

// waitFor reads how long a long-poll may take.
func (c *call) waitFor() (time.Duration, error) {
	v := c.r.URL.Query().Get("wait")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return 0, invalid("wait: want a duration such as 30s")
	}
	return min(d, maxWait), nil
}
