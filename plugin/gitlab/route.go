package gitlab

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
)

// What a runner may ask for.
type call int

const (
	callNone call = iota
	callVerify
	callReset      // a new token for the runner: never, it is the whole pool's
	callUnregister // same
	callDiscovery
	callRequest
	callUpdate
	callTrace
	callArtifactsGet
	callArtifactsPost
	callJobOther // another call about one job, passed through
)

// A route is what a request's path and method say.
type route struct {
	call call
	slot int    // 0: the path names none
	job  string // decimal digits, for calls about a job
	path string // below the upstream URL, made here of checked parts; no query
}

var (
	errBadPath  = errors.New("path is not one of a runner's")
	errNotFound = errors.New("no such call")
)

// parseRoute reads the request target as it stood in the request line, not what a
// parser made of it: what is not exactly a runner's path is refused, so that there
// is nothing to normalise and no two readings of one path. Nothing from outside
// becomes part of the upstream path but decimal numbers and words of [a-z_].
func parseRoute(method, target string) (route, error) {
	target, _, _ = strings.Cut(target, "?")
	if len(target) > 512 || !strings.HasPrefix(target, "/") {
		return route{}, errBadPath // absolute form, authority form, "*"
	}
	parts := strings.Split(target[1:], "/")
	var r route
	if n, ok := strings.CutPrefix(parts[0], "slot"); ok {
		slot, err := strconv.Atoi(n)
		if err != nil || slot < 1 || strconv.Itoa(slot) != n {
			return route{}, errBadPath
		}
		r.slot, parts = slot, parts[1:]
	}
	if len(parts) < 3 || parts[0] != "api" || parts[1] != "v4" {
		return route{}, errBadPath
	}
	parts = parts[2:]
	for _, p := range parts {
		if !isWord(p) && !isNumber(p) {
			return route{}, errBadPath
		}
	}
	r.path = "api/v4/" + strings.Join(parts, "/")
	if parts[0] == "jobs" && len(parts) > 1 && isNumber(parts[1]) {
		r.job = parts[1]
		r.call = jobCall(method, parts[2:])
	} else {
		r.call = runnerCalls[method+" "+strings.Join(parts, "/")]
	}
	if r.call == callNone {
		return route{}, errNotFound
	}
	return r, nil
}

var runnerCalls = map[string]call{
	"POST runners/verify":                     callVerify,
	"POST runners/reset_authentication_token": callReset,
	"DELETE runners":                          callUnregister,
	"DELETE runners/managers":                 callUnregister,
	"GET runners/router/discovery":            callDiscovery,
	"POST jobs/request":                       callRequest,
}

func jobCall(method string, rest []string) call {
	switch {
	case len(rest) == 0 && method == http.MethodPut:
		return callUpdate
	case len(rest) == 0:
		return callNone
	case len(rest) > 2 || isNumber(rest[0]):
		return callNone
	case len(rest) == 1 && rest[0] == "trace" && method == http.MethodPatch:
		return callTrace
	case rest[0] == "trace":
		return callNone // there is one writer
	case len(rest) == 1 && rest[0] == "artifacts" && method == http.MethodGet:
		return callArtifactsGet
	case len(rest) == 1 && rest[0] == "artifacts" && method == http.MethodPost:
		return callArtifactsPost
	case method == http.MethodGet || method == http.MethodPost || method == http.MethodPut:
		return callJobOther
	}
	return callNone
}

// isNumber: a job id. 19 digits always fit 64 bits or are refused by GitLab.
func isNumber(s string) bool {
	return s != "" && len(s) <= 19 && strings.Trim(s, "0123456789") == ""
}

func isWord(s string) bool {
	return s != "" && len(s) <= 64 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}
