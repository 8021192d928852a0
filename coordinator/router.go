package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
)

// maxBody bounds the JSON of a call.
const maxBody = 8 << 20

// call is a request that found its route and was let in.
type call struct {
	s    *Server
	w    http.ResponseWriter
	r    *http.Request
	args map[string]string
	who  caller
}

// handler answers a call; an error becomes the answer.
type handler func(*call) error

// router finds the route of a request, checks the role, and calls its handler.
// What has no route is answered with 404 only to those who have a role: a stranger
// learns nothing, not even what exists.
type router struct {
	s      *Server
	routes []route
}

type route struct {
	api.Route
	segments []string
	handle   handler
}

// newRouter joins the table of routes with the handlers. One without the other is
// a mistake of ours that must not wait for the first request.
func newRouter(s *Server) (*router, error) {
	rt := &router{s: s}
	hs := handlers()
	for _, r := range api.Routes() {
		h := hs[r.Name]
		if h == nil {
			return nil, fmt.Errorf("route %s has no handler", r.Name)
		}
		delete(hs, r.Name)
		rt.routes = append(rt.routes, route{Route: r, segments: strings.Split(r.Pattern, "/")[1:], handle: h})
	}
	for name := range hs {
		return nil, fmt.Errorf("handler %s has no route", name)
	}
	return rt, nil
}

// match compares a path with a pattern.
func (r *route) match(path []string) (map[string]string, bool) {
	args := map[string]string{}
	for i, seg := range r.segments {
		name, rest := strings.CutSuffix(seg, "...}")
		if rest {
			args[name[1:]] = strings.Join(path[min(i, len(path)):], "/")
			return args, i < len(path)
		}
		if i >= len(path) {
			return nil, false
		}
		name, verb, wild := cutWild(seg)
		switch {
		case !wild:
			if seg != path[i] {
				return nil, false
			}
		case verb != "":
			v, ok := strings.CutSuffix(path[i], verb)
			if !ok || v == "" {
				return nil, false
			}
			args[name] = v
		case path[i] == "" || strings.Contains(path[i], ":"):
			return nil, false
		default:
			args[name] = path[i]
		}
	}
	return args, len(path) == len(r.segments)
}

// cutWild takes "{name}:verb" apart.
func cutWild(seg string) (name, verb string, wild bool) {
	if !strings.HasPrefix(seg, "{") {
		return "", "", false
	}
	name, verb, _ = strings.Cut(seg[1:], "}")
	return name, verb, true
}

// ServeHTTP implements http.Handler.
func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	who := rt.s.authenticate(r)
	path := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	allowed := false
	for i := range rt.routes {
		ro := &rt.routes[i]
		args, ok := ro.match(path)
		if !ok {
			continue
		}
		allowed = true
		if ro.Method != r.Method {
			continue
		}
		c := &call{s: rt.s, w: w, r: r, args: args, who: who}
		if err := rt.admit(ro, c); err != nil {
			c.fail(err)
			return
		}
		if c.who.role == "" {
			return // logged in: the answer is out
		}
		if err := ro.handle(c); err != nil {
			c.fail(err)
		}
		return
	}
	c := &call{s: rt.s, w: w, r: r, who: who}
	if who.role == api.RolePublic && wantsPage(r) && rt.s.hasSession(r) {
		c.who.role = api.RoleUser
	}
	switch {
	case c.who.role == api.RolePublic:
		c.fail(errUnauthorized)
	case allowed:
		c.fail(&api.Error{HTTP: 405, Code: api.CodeInvalid, Text: "method " + r.Method + " is not allowed here"})
	default:
		c.fail(&api.Error{HTTP: 404, Code: api.CodeNotFound, Text: "no such thing: " + r.URL.Path})
	}
}

var errUnauthorized = &api.Error{HTTP: 401, Code: api.CodeUnauthorized, Text: "this needs a token"}

// admit checks that the caller's role may use the route. A page takes a cookie as
// well, and a token in its address, which becomes the cookie.
func (rt *router) admit(ro *route, c *call) error {
	if ro.Page && c.who.role == api.RolePublic {
		if rt.s.login(c) {
			c.who.role = ""
			return nil
		}
		if rt.s.hasSession(c.r) {
			c.who.role = api.RoleUser
		}
	}
	if ro.Allows(c.who.role) {
		return nil
	}
	if c.who.role == api.RolePublic {
		return errUnauthorized
	}
	return &api.Error{HTTP: 403, Code: api.CodeForbidden, Text: fmt.Sprintf("the token of role %q may not do this", c.who.role)}
}

// fail answers with an error. What is not meant for callers is logged and named
// only in general.
func (c *call) fail(err error) {
	var e *api.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, state.ErrNotFound):
		e = &api.Error{HTTP: 404, Code: api.CodeNotFound, Text: err.Error()}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		e = &api.Error{HTTP: 503, Code: api.CodeInternal, Text: "the call was given up"}
	default:
		c.s.log.Error("call", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
		e = &api.Error{HTTP: 500, Code: api.CodeInternal, Text: "something went wrong in the coordinator; its log says what"}
	}
	if e.HTTP == 401 {
		if wantsPage(c.r) {
			c.s.loginPage(c)
			return
		}
		c.w.Header().Set("WWW-Authenticate", `Bearer realm="roost"`)
		if strings.HasPrefix(c.r.URL.Path, "/v1/git/") {
			c.w.Header().Add("WWW-Authenticate", `Basic realm="roost"`)
		}
	}
	if wantsPage(c.r) && c.who.role == api.RoleUser {
		c.s.errorPage(c, e)
		return
	}
	c.json(e.HTTP, e) //nolint:errcheck // nobody is left to tell
}

// json answers with a value.
func (c *call) json(status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", "application/json")
	c.w.WriteHeader(status)
	_, err = c.w.Write(append(b, '\n'))
	if err != nil {
		c.s.log.Debug("answer", "path", c.r.URL.Path, "error", err)
	}
	return nil
}

// body reads the JSON of a call. Nothing may follow it.
func (c *call) body(v any) error {
	d := json.NewDecoder(http.MaxBytesReader(c.w, c.r.Body, maxBody))
	if err := d.Decode(v); err != nil {
		var big *http.MaxBytesError
		if errors.As(err, &big) {
			return &api.Error{HTTP: 413, Code: api.CodeInvalid, Text: fmt.Sprintf("the body is longer than %d bytes", maxBody)}
		}
		return invalid("body: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return invalid("something follows the body")
	}
	return nil
}
