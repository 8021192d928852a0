package gitlab

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRoute(t *testing.T) {
	for _, c := range []struct {
		method, target string
		want           route
	}{
		{"POST", "/slot3/api/v4/jobs/request", route{callRequest, 3, "", "api/v4/jobs/request"}},
		{"POST", "/slot3/api/v4/runners/verify", route{callVerify, 3, "", "api/v4/runners/verify"}},
		{"POST", "/slot3/api/v4/runners/reset_authentication_token", route{callReset, 3, "", "api/v4/runners/reset_authentication_token"}},
		{"DELETE", "/slot3/api/v4/runners", route{callUnregister, 3, "", "api/v4/runners"}},
		{"DELETE", "/slot3/api/v4/runners/managers", route{callUnregister, 3, "", "api/v4/runners/managers"}},
		{"GET", "/slot3/api/v4/runners/router/discovery", route{callDiscovery, 3, "", "api/v4/runners/router/discovery"}},
		{"PUT", "/slot12/api/v4/jobs/47", route{callUpdate, 12, "47", "api/v4/jobs/47"}},
		{"PATCH", "/slot12/api/v4/jobs/47/trace?debug_trace=false", route{callTrace, 12, "47", "api/v4/jobs/47/trace"}},
		{"GET", "/slot1/api/v4/jobs/47/artifacts?direct_download=true", route{callArtifactsGet, 1, "47", "api/v4/jobs/47/artifacts"}},
		{"POST", "/api/v4/jobs/47/artifacts?x=%2e%2e", route{callArtifactsPost, 0, "47", "api/v4/jobs/47/artifacts"}},
		{"GET", "/slot1/api/v4/jobs/47/new_thing", route{callJobOther, 1, "47", "api/v4/jobs/47/new_thing"}},
	} {
		got, err := parseRoute(c.method, c.target)
		require.NoError(t, err, c.target)
		require.Equal(t, c.want, got)
	}
}

// evilTargets are request targets that must lead nowhere.
var evilTargets = []string{
	"", "*", "http://evil/slot1/api/v4/jobs/1", "//evil/api/v4/jobs/1", "/slot1//api/v4/jobs/1", "/slot1/api/v4/jobs/1/",
	"/slot1/api/v4/../admin", "/slot1/api/v4/jobs/../runners", "/slot1/api/v4/jobs/1/%2e%2e/2", "/slot1/api/v4/jobs%2f1", "/slot1/api/v4/jobs/1%00",
	"/slot1/api/v4/jobs/1\r\nHost: evil", "/slot1/api/v4/projects/1", "/slot0/api/v4/jobs/1", "/slot01/api/v4/jobs/1", "/slot+1/api/v4/jobs/1",
	"/slot-1/api/v4/jobs/1", "/slot1/api/v3/jobs/1", "/slot1/API/v4/jobs/1", "/slot1/api/v4/jobs/1/trace/1", "/slot1/api/v4/jobs/-1",
	"/slot1/api/v4/jobs/1;x", "/slot1/api/v4/jobs/1\\2", "/slot1/api/v4/jobs/99999999999999999999", "/slot1/api/v4/jobs", "/api/v4/", "/", "/slot1",
	"/slot99999999999999999999/api/v4/jobs/1", "/slot1/api/v4/jobs/1/a/b/c", "/slot1/api/v4/jobs/1#x", "/slot1/api/v4/jobs/ 1", "/slot1@evil/api/v4/jobs/1",
}

func TestRouteRefuses(t *testing.T) {
	for _, target := range evilTargets {
		for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE", "CONNECT"} {
			_, err := parseRoute(method, target)
			require.Error(t, err, "%s %q", method, target)
		}
	}
	for _, c := range []string{"DELETE /api/v4/jobs/1", "PUT /api/v4/jobs/1/trace", "GET /api/v4/jobs/1", "CONNECT /api/v4/jobs/1/x", "GET /api/v4/jobs/request"} {
		var method, target string
		method, target, _ = cut(c)
		_, err := parseRoute(method, target)
		require.Error(t, err, c)
	}
}

func cut(s string) (string, string, bool) {
	for i := range s {
		if s[i] == ' ' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

var upstreamPath = regexp.MustCompile(`^api/v4/(runners|jobs)(/([0-9]{1,19}|[a-z_]{1,64})){0,3}$`)

// FuzzRoute: whatever the request line is, what goes upstream is a runner's path.
func FuzzRoute(f *testing.F) {
	for _, target := range evilTargets {
		f.Add("GET", target)
	}
	f.Add("PUT", "/slot12/api/v4/jobs/47")
	f.Add("POST", "/slot1/api/v4/jobs/request?x=y")
	f.Fuzz(func(t *testing.T, method, target string) {
		r, err := parseRoute(method, target)
		if err != nil {
			return
		}
		if !upstreamPath.MatchString(r.path) || r.slot < 0 || r.job != "" && !isNumber(r.job) {
			t.Fatalf("%q %q: %+v", method, target, r)
		}
	})
}
