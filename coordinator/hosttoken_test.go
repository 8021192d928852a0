package coordinator

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
)

// TestHostTokens: a host's own token is worth that host, on every route that an agent has, and as long as
// it is there; the shared one can be turned off.
func TestHostTokens(t *testing.T) {
	var revoked atomic.Bool
	b := newBench(t, func(o *Options) { o.HostOf = hostOf(&revoked) })
	a := b.newHost("host-a", 1)
	p := b.submit(single)
	c := a.claim()
	a.begin(c)
	samples := samples(p, c, a.id)
	mine := "token-of-host-a-alone"
	theirs := "token-of-host-b-alone"
	epoch := func(r *http.Request) { r.Header.Set(api.HeaderEpoch, "1") }
	everybodys := map[string]bool{
		api.RouteGetBlob: true, api.RouteHeadBlob: true, api.RoutePutBlob: true, api.RouteGetRef: true, api.RoutePutRef: true, api.RouteHealth: true,
		api.RouteRegister: true, // below
	}
	for _, r := range api.Routes() {
		if !r.Allows(api.RoleAgent) || r.Allows(api.RolePublic) || everybodys[r.Name] {
			continue
		}
		res, text := b.try(r.Method, samples[r.Name], theirs, epoch)
		require.Equal(t, 403, res.StatusCode, "%s: %s", r.Name, text)
		if r.Method != http.MethodHead {
			require.Contains(t, text, "host-b", r.Name)
		}
		if r.Name == api.RouteHeartbeat || r.Name == api.RouteAccept {
			res, text = b.try(r.Method, samples[r.Name], mine, epoch)
			require.NotEqual(t, 403, res.StatusCode, "%s: %s", r.Name, text)
			require.NotEqual(t, 401, res.StatusCode, "%s: %s", r.Name, text)
		}
	}
	require.Equal(t, api.StatusRunning, b.job(p, "job").Status, "nothing of it had an effect")

	register := func(token string, edit func(*api.Register)) int {
		reg := a.reg
		edit(&reg)
		res, _ := b.try("POST", "/v1/agents:register", token, func(r *http.Request) {
			text := jsonText(t, reg)
			r.Body, r.ContentLength = http.NoBody, 0
			r.Body = readCloser{strings.NewReader(text)}
			r.ContentLength = int64(len(text))
		})
		return res.StatusCode
	}
	require.Equal(t, 200, register(mine, func(*api.Register) {}))
	require.Equal(t, 403, register(theirs, func(*api.Register) {}), "under another host's name")
	require.Equal(t, 403, register(theirs, func(r *api.Register) { r.Name = "host-b" }), "with another host's store")
	require.Equal(t, 200, register(theirs, func(r *api.Register) { r.Name, r.StoreID, r.Session = "host-b", newID(t), newID(t) }))

	revoked.Store(true)
	require.Equal(t, 401, register(mine, func(*api.Register) {}), "it was taken back")
	require.Equal(t, 200, register(agentToken, func(*api.Register) {}))
}

// hostOf knows two hosts, of which the first may be gone.
func hostOf(revoked *atomic.Bool) func(string) string {
	return func(token string) string {
		switch {
		case token == "token-of-host-a-alone" && !revoked.Load():
			return "host-a"
		case token == "token-of-host-b-alone":
			return "host-b"
		}
		return ""
	}
}

// TestHostTokensOnly: the shared token lets nobody in where each host has its own.
func TestHostTokensOnly(t *testing.T) {
	b := newBench(t, func(o *Options) { o.HostOf, o.HostTokensOnly = hostOf(new(atomic.Bool)), true })
	path := "/v1/agents/" + string(newID(t)) + ":heartbeat"
	res, _ := b.try("POST", path, agentToken)
	require.Equal(t, 401, res.StatusCode)
	res, _ = b.try("POST", path, "token-of-host-b-alone")
	require.Equal(t, 404, res.StatusCode)
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }
