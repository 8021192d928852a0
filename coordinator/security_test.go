package coordinator

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/dashboard"
	"github.com/roost-ci/roost/snapshot"
)

// samples gives every route a path that exists. A route without one fails the
// test, so that nobody adds a route without thinking of who may call it.
func samples(p *api.Pipeline, c api.Claim, agent snapshot.ID) map[string]string {
	attempt, digest := string(c.Attempt), strings.Repeat("ab", 32)
	return map[string]string{
		api.RouteSubmit: "/v1/pipelines", api.RoutePipelines: "/v1/pipelines", api.RoutePipeline: "/v1/pipelines/" + p.ID,
		api.RouteCancelPipeline: "/v1/pipelines/" + p.ID + ":cancel", api.RouteEvents: "/v1/pipelines/" + p.ID + "/events",
		api.RouteJob: "/v1/jobs/" + p.Jobs[0].ID, api.RouteLog: "/v1/attempts/" + attempt + "/log", api.RouteHosts: "/v1/hosts",
		api.RouteRegister: "/v1/agents:register", api.RouteHeartbeat: "/v1/agents/" + string(agent) + ":heartbeat",
		api.RouteClaims: "/v1/agents/" + string(agent) + "/claims", api.RouteLeave: "/v1/agents/" + string(agent) + ":leave",
		api.RouteAccept: "/v1/attempts/" + attempt + ":accept", api.RouteStart: "/v1/attempts/" + attempt + ":start",
		api.RouteFinish: "/v1/attempts/" + attempt + ":finish", api.RouteAppendLog: "/v1/attempts/" + attempt + "/log",
		api.RouteSnapshot: "/v1/snapshots/" + attempt, api.RouteGetBlob: "/v1/blobs/" + digest,
		api.RouteHeadBlob: "/v1/blobs/" + digest, api.RoutePutBlob: "/v1/blobs/" + digest,
		api.RouteGetRef: "/v1/blobs/refs/" + attempt, api.RoutePutRef: "/v1/blobs/refs/" + attempt,
		api.RouteGitGet:  "/v1/git/" + attempt + "/info/refs?service=git-upload-pack",
		api.RouteGitPost: "/v1/git/" + attempt + "/git-upload-pack", api.RouteHealth: "/healthz",
		api.RoutePage: "/", api.RoutePagePipeline: "/pipelines/" + p.ID, api.RoutePageLog: "/logs/" + attempt, api.RoutePageStyle: "/style.css",
		api.RouteMetrics: "/metrics",
	}
}

// try makes a bare request and gives its status and answer.
func (b *bench) try(method, path, token string, edit ...func(*http.Request)) (*http.Response, string) {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.t.Context(), method, b.http.URL+path, strings.NewReader("{}"))
	require.NoError(b.t, err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for _, f := range edit {
		f(req)
	}
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := c.Do(req)
	require.NoError(b.t, err)
	defer res.Body.Close() //nolint:errcheck // a test's
	body, err := io.ReadAll(res.Body)
	require.NoError(b.t, err)
	return res, string(body)
}

func TestRoles(t *testing.T) {
	b := newBench(t, func(o *Options) {
		o.Blobs = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if len(r.URL.Path) != 65 || r.URL.Path[0] != '/' {
				w.WriteHeader(500)
			}
		})
	})
	h := b.newHost("h", 1)
	p := b.submit(single)
	c := h.claim()
	h.begin(c)
	paths := samples(p, c, h.id)
	tokens := map[string]api.Role{
		"": api.RolePublic, "nonsense": api.RolePublic, agentToken + "x": api.RolePublic,
		agentToken: api.RoleAgent, userToken: api.RoleUser, c.Token: api.RoleAttempt,
		c.Token[:len(c.Token)-1] + "!":                                             api.RolePublic,
		strings.Replace(c.Token, string(c.Attempt), string(newID(t)), 1):           api.RolePublic,
		attemptPrefix + string(c.Attempt) + "-" + strings.Repeat("0", 64):          api.RolePublic,
		attemptPrefix + string(c.Attempt):                                          api.RolePublic,
		attemptPrefix + strings.Repeat("../", 8) + "aa-" + strings.Repeat("0", 64): api.RolePublic,
	}
	for _, r := range api.Routes() {
		path, ok := paths[r.Name]
		require.True(t, ok, "route %s has no case in this test", r.Name)
		require.NotEmpty(t, r.Roles, r.Name)
		for token, role := range tokens {
			if r.Allows(role) {
				continue // what it does then is the other tests' matter
			}
			res, body := b.try(r.Method, path, token)
			want := http.StatusForbidden
			if role == api.RolePublic {
				want = http.StatusUnauthorized
			}
			require.Equal(t, want, res.StatusCode, "%s %s with token of %s %q: %s", r.Method, path, role, token, body)
		}
	}
	require.Equal(t, api.StatusRunning, b.job(p, "job").Status, "nothing of it had an effect")

	// Whom the table allows gets in.
	for name, token := range map[string]string{
		api.RouteHosts: userToken, api.RoutePipeline: userToken, api.RouteGetBlob: agentToken, api.RoutePutBlob: agentToken,
		api.RoutePage: userToken, api.RouteHealth: "",
	} {
		for _, r := range api.Routes() {
			if r.Name == name {
				res, body := b.try(r.Method, paths[name], token)
				require.Equal(t, 200, res.StatusCode, "%s: %s", name, body)
			}
		}
	}
}

// A stranger can't tell what exists from what does not.
func TestStrangers(t *testing.T) {
	b := newBench(t)
	for _, path := range []string{"/v1/pipelines/1", "/v1/nothing", "/admin", "/v1/pipelines/../agents", "//", "/v1/attempts/x:finish"} {
		for _, m := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			res, _ := b.try(m, path, "")
			require.Equal(t, 401, res.StatusCode, "%s %s", m, path)
		}
	}
	res, _ := b.try("DELETE", "/v1/pipelines/1", userToken)
	require.Equal(t, 405, res.StatusCode)
	res, _ = b.try("GET", "/v1/nothing", userToken)
	require.Equal(t, 404, res.StatusCode)
}

// An attempt's token ends with its attempt.
func TestAttemptTokenEnds(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit("a:\n  script: x\nb:\n  script: x\n")
	c := h.claim()
	h.begin(c)
	path := "/v1/git/" + string(c.Attempt) + "/info/refs?service=git-upload-pack"
	res, _ := b.try("GET", path, c.Token)
	require.Equal(t, 404, res.StatusCode, "it is let in, but there is no source")
	h.succeed(c)
	res, _ = b.try("GET", path, c.Token)
	require.Equal(t, 401, res.StatusCode)
	d := h.claim()
	res, _ = b.try("GET", "/v1/git/"+string(c.Attempt)+"/info/refs?service=git-upload-pack", d.Token)
	require.Equal(t, 403, res.StatusCode, "another attempt's path")
}

func TestBadCalls(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	b.submit(single)
	c := h.claim()
	at := "/v1/attempts/" + string(c.Attempt)
	epoch := func(r *http.Request) { r.Header.Set(api.HeaderEpoch, "1") }
	body := func(s string) func(*http.Request) {
		return func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(s)), int64(len(s))
		}
	}
	for _, x := range []struct {
		name, method, path, token string
		edit                      []func(*http.Request)
		status                    int
	}{
		{"no epoch", "POST", at + ":accept", agentToken, nil, 400},
		{"odd epoch", "POST", at + ":accept", agentToken, []func(*http.Request){func(r *http.Request) { r.Header.Set(api.HeaderEpoch, "-1") }}, 400},
		{"odd id", "POST", "/v1/attempts/..:accept", agentToken, []func(*http.Request){epoch}, 400},
		{"not JSON", "POST", at + ":start", agentToken, []func(*http.Request){epoch, body("{")}, 400},
		{"two bodies", "POST", at + ":start", agentToken, []func(*http.Request){epoch, body("{}{}")}, 400},
		{"huge", "POST", at + ":start", agentToken, []func(*http.Request){epoch, body(`{"x":"` + strings.Repeat("x", maxBody) + `"}`)}, 413},
		{"no status", "POST", at + ":finish", agentToken, []func(*http.Request){epoch}, 400},
		{"odd status", "POST", at + ":finish", agentToken, []func(*http.Request){epoch, body(`{"status":"running"}`)}, 400},
		{"odd output", "POST", at + ":finish", agentToken, []func(*http.Request){epoch, body(`{"status":"success","output":"../../x"}`)}, 400},
		{"no range", "PATCH", at + "/log", agentToken, []func(*http.Request){epoch}, 400},
		{"range and body differ", "PATCH", at + "/log", agentToken, []func(*http.Request){epoch, func(r *http.Request) { r.Header.Set("Content-Range", "0-9") }}, 400},
		{"range backwards", "PATCH", at + "/log", agentToken, []func(*http.Request){epoch, func(r *http.Request) { r.Header.Set("Content-Range", "5-2") }}, 400},
		{"odd wait", "GET", "/v1/pipelines/1/events?wait=soon", userToken, nil, 400},
		{"odd after", "GET", "/v1/pipelines/1/events?after=-1", userToken, nil, 400},
		{"no such pipeline", "GET", "/v1/pipelines/99", userToken, nil, 404},
		{"no such job", "GET", "/v1/jobs/x", userToken, nil, 404},
		{"no such log", "GET", "/v1/attempts/" + string(newID(t)) + "/log", userToken, nil, 404},
		{"odd log", "GET", "/v1/attempts/%2e%2e%2fx/log", userToken, nil, 404},
		{"no blobs", "GET", "/v1/blobs/" + strings.Repeat("ab", 32), agentToken, nil, 404},
		{"no host name", "POST", "/v1/agents:register", agentToken, nil, 400},
		{"unknown agent", "POST", "/v1/agents/" + string(newID(t)) + ":heartbeat", agentToken, nil, 404},
		{"no key", "POST", "/v1/pipelines", userToken, []func(*http.Request){body(`{"project":"p","text":"a: {script: x}"}`)}, 400},
		{"no facts", "PUT", "/v1/snapshots/" + string(c.Attempt), agentToken, []func(*http.Request){body(`{"id":"` + string(c.Attempt) + `"}`)}, 400},
		{"other facts", "PUT", "/v1/snapshots/" + string(c.Attempt), agentToken, []func(*http.Request){body(`{"id":"` + string(newID(t)) + `"}`)}, 400},
	} {
		res, text := b.try(x.method, x.path, x.token, x.edit...)
		require.Equal(t, x.status, res.StatusCode, "%s: %s", x.name, text)
		require.Contains(t, text, `"error"`, x.name)
		require.Equal(t, "nosniff", res.Header.Get("X-Content-Type-Options"))
	}
}

// The cookie is not the token, ends, and opens nothing but pages.
func TestLogin(t *testing.T) {
	b := newBench(t)
	html := func(r *http.Request) { r.Header.Set("Accept", "text/html") }
	res, body := b.try("GET", "/", "", html)
	require.Equal(t, 401, res.StatusCode)
	require.Contains(t, body, "needs a login")
	res, _ = b.try("GET", "/?token="+agentToken, "", html)
	require.Equal(t, 401, res.StatusCode)

	res, _ = b.try("GET", "/pipelines/1?token="+userToken, "", html)
	require.Equal(t, 303, res.StatusCode)
	require.Equal(t, "/pipelines/1", res.Header.Get("Location"), "the token is gone from the address")
	c := res.Cookies()[0]
	require.True(t, c.HttpOnly)
	require.Equal(t, http.SameSiteStrictMode, c.SameSite)
	require.NotContains(t, c.Value, userToken)

	with := func(r *http.Request) { html(r); r.AddCookie(c) }
	res, _ = b.try("GET", "/", "", with)
	require.Equal(t, 200, res.StatusCode)
	res, _ = b.try("GET", "/v1/hosts", "", with)
	require.Equal(t, 401, res.StatusCode)
	forged := *c
	forged.Value = "99999999999." + strings.SplitN(c.Value, ".", 2)[1]
	res, _ = b.try("GET", "/", "", func(r *http.Request) { r.AddCookie(&forged) })
	require.Equal(t, 401, res.StatusCode)
	b.clock.mu.Lock()
	b.clock.now = b.clock.now.Add(sessionLife + time.Second)
	b.clock.mu.Unlock()
	res, _ = b.try("GET", "/", "", with)
	require.Equal(t, 401, res.StatusCode)
}

// A password is what a browser sends without being asked, also for the page of a
// stranger: no person's token is taken for one.
func TestNoPasswords(t *testing.T) {
	b := newBench(t)
	h := b.newHost("h", 1)
	p := b.submit(single)
	c := h.claim()
	as := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.SetBasicAuth("anybody", token) }
	}
	for _, path := range []string{"/v1/pipelines/" + p.ID + ":cancel", "/v1/agents:register"} {
		for _, token := range []string{userToken, agentToken} {
			res, _ := b.try("POST", path, "", as(token))
			require.Equal(t, 401, res.StatusCode)
			require.Equal(t, []string{`Bearer realm="roost"`}, res.Header.Values("WWW-Authenticate"))
		}
	}
	git := "/v1/git/" + string(c.Attempt) + "/info/refs?service=git-upload-pack"
	res, _ := b.try("GET", git, "")
	require.Contains(t, res.Header.Values("WWW-Authenticate"), `Basic realm="roost"`)
	res, _ = b.try("GET", git, "", as(c.Token))
	require.Equal(t, 404, res.StatusCode, "let in; there is no source")
}

// Whatever path comes, matching it neither panics nor finds two routes.
func FuzzRouter(f *testing.F) {
	for _, r := range api.Routes() {
		f.Add(r.Pattern)
	}
	f.Add("/v1/pipelines/:cancel")
	f.Add("/v1/git//x")
	pages, err := dashboard.New()
	require.NoError(f, err)
	s := &Server{o: Options{AgentToken: agentToken, UserToken: userToken}, pages: pages}
	rt, err := newRouter(s)
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, path string) {
		segs := strings.Split(strings.TrimPrefix(path, "/"), "/")
		found := map[string]string{}
		for i := range rt.routes {
			if _, ok := rt.routes[i].match(segs); ok {
				m := rt.routes[i].Method
				require.Empty(t, found[m], "%q is %s and %s", path, found[m], rt.routes[i].Name)
				found[m] = rt.routes[i].Name
			}
		}
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		if path != "/healthz" && path != "/style.css" {
			require.Contains(t, []int{401}, w.Code, path)
		}
	})
}
