package coordinator

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/dashboard"
)

const (
	// pageRefresh is in seconds.
	pageRefresh   = 5
	pagePipelines = 30
	// pageLogBytes is how much of a log's end a page shows.
	pageLogBytes = 256 << 10
)

// wantsPage reports whether a request comes from somebody with a browser.
func wantsPage(r *http.Request) bool {
	return r.Method == http.MethodGet && !strings.HasPrefix(r.URL.Path, "/v1/") && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// login makes a session of a token in the address, and sends the browser on to the
// address without it.
func (s *Server) login(c *call) bool {
	q := c.r.URL.Query()
	token := q.Get("token")
	if token == "" || !same(token, s.o.UserToken) {
		return false
	}
	http.SetCookie(c.w, &http.Cookie{
		Name: cookieName, Value: s.session(), Path: "/", MaxAge: int(sessionLife.Seconds()),
		HttpOnly: true, Secure: s.o.TLS != nil, SameSite: http.SameSiteStrictMode,
	})
	c.w.Header().Set("Referrer-Policy", "no-referrer")
	// A path of the table, so never another host's.
	to := url.URL{Path: "/" + strings.TrimLeft(c.r.URL.Path, "/")}
	http.Redirect(c.w, c.r, to.String(), http.StatusSeeOther)
	return true
}

// frame is what a page has around it. What changes is loaded again, unless the reader
// has stopped that: it takes the place in the page from under a screen reader.
func (c *call) frame(title string, refresh int, page any) dashboard.Frame {
	f := dashboard.Frame{Title: title, Refresh: refresh, Version: c.s.o.Version, Now: c.s.now(), Page: page}
	if refresh > 0 && c.r.URL.Query().Get("refresh") == "off" {
		f.Refresh, f.Stopped = 0, true
	}
	return f
}

// loginPage answers somebody who has no session.
func (s *Server) loginPage(c *call) {
	wrong := c.r.URL.Query().Get("token") != ""
	if err := s.pages.Login(c.w, dashboard.Frame{Title: "Login", Now: s.now(), Page: dashboard.Login{Wrong: wrong}}); err != nil {
		s.log.Debug("page", "error", err)
	}
}

// errorPage tells somebody with a browser what an error is.
func (s *Server) errorPage(c *call, e *api.Error) {
	title := http.StatusText(e.HTTP)
	if err := s.pages.Error(c.w, e.HTTP, c.frame(title, 0, dashboard.Error{Text: e.Text})); err != nil {
		s.log.Debug("page", "error", err)
	}
}

func (c *call) page() error {
	ctx := c.r.Context()
	ps, err := c.s.state.Pipelines(ctx, "", pagePipelines)
	if err != nil {
		return err
	}
	ix := dashboard.Index{Hosts: c.s.showHosts()}
	for _, p := range ps {
		run, err := c.s.runOf(ctx, p.ID)
		if err != nil {
			return err
		}
		ix.Pipelines = append(ix.Pipelines, *run)
	}
	return c.s.pages.Index(c.w, c.frame("Status", pageRefresh, ix))
}

func (s *Server) runOf(ctx context.Context, id string) (*dashboard.Run, error) {
	p, err := s.pipeline(ctx, id)
	if err != nil {
		return nil, err
	}
	return &dashboard.Run{Pipeline: *p, Moves: dashboard.Sum(p.Jobs)}, nil
}

func (c *call) pagePipeline() error {
	ctx := c.r.Context()
	id, err := c.s.pipelineID(ctx, c.args["id"])
	if err != nil {
		return err
	}
	run, err := c.s.runOf(ctx, id)
	if err != nil {
		return err
	}
	events, err := c.s.state.Events(ctx, id, 0, maxEvents)
	if err != nil {
		return err
	}
	refresh := pageRefresh
	if run.Status.Ended() {
		refresh = 0
	}
	v := dashboard.Pipeline{Run: *run, Events: events, Cut: len(events) == maxEvents}
	return c.s.pages.Pipeline(c.w, c.frame(fmt.Sprintf("Pipeline %d", run.Number), refresh, v))
}

func (c *call) pageLog() error {
	id, err := c.id("attempt")
	if err != nil {
		return err
	}
	job, ended, err := c.s.jobOf(c.r, id)
	if err != nil {
		return err
	}
	j, _, err := c.s.state.Job(c.r.Context(), job)
	if err != nil {
		return err
	}
	_, size, err := c.s.logs.read(id, 0, 0)
	if err != nil {
		return err
	}
	from := max(0, size-pageLogBytes)
	p, _, err := c.s.logs.read(id, from, pageLogBytes)
	if err != nil {
		return err
	}
	refresh := pageRefresh
	if ended {
		refresh = 0
	}
	v := dashboard.Log{Attempt: string(id), Pipeline: j.Pipeline, Text: string(p), Cut: from > 0}
	return c.s.pages.Log(c.w, c.frame("Log of "+j.Def.Spec.Name, refresh, v))
}

func (c *call) pageStyle() error { return c.s.pages.Style(c.w) }
