package gitlabtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is a mishap: it meets the Nth call that fits, and those after it, Times in all.
type Fault struct {
	// Route is as in the handlers' patterns, such as "PUT /api/v4/jobs/{id}"; "" is all.
	Route string
	// Job narrows it to one job, Final to final reports, State to reports of that state.
	Job   int64
	Final bool
	State string
	// Nth is from 1; 0 is 1. Times 0 is 1, negative is for ever.
	Nth, Times int
	// Chance, if set, lets it meet a call that fits only that often, by Rand, which is
	// asked by one call at a time.
	Chance float64
	Rand   *rand.Rand

	// Delay passes before anything is read.
	Delay time.Duration
	// Status, if set, is the answer; the call has no effect.
	Status int
	// Header goes over that of the answer.
	Header map[string]string
	// Reset breaks the connection off instead of an answer; the call has no effect.
	Reset bool
	// LoseReply lets the call have its effect and then breaks the connection off.
	LoseReply bool
	// After passes between the effect and the answer.
	After time.Duration
	// Do, if set, is called first.
	Do func()

	g         *GitLab
	seen, met int // under g.mu
}

// Hits is how many calls it has met.
func (f *Fault) Hits() int {
	f.g.mu.Lock()
	defer f.g.mu.Unlock()
	return f.met
}

// Fault arms a fault. Where several fit, the oldest one meets the call.
func (g *GitLab) Fault(f Fault) *Fault {
	p := &f
	p.g, p.Nth, p.Times = g, max(1, f.Nth), cmp.Or(f.Times, 1)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = append(g.faults, p)
	return p
}

// NoFaults disarms all.
func (g *GitLab) NoFaults() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.faults = nil
}

func (g *GitLab) faultFor(route string, c *Call) *Fault {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, f := range g.faults {
		fits := (f.Route == "" || f.Route == route) && (f.Job == 0 || f.Job == c.Job) && (f.State == "" || f.State == c.State) &&
			(!f.Final || c.State == "success" || c.State == "failed")
		if !fits || f.Times == f.met {
			continue
		}
		f.seen++
		if f.seen < f.Nth {
			continue
		}
		if f.Chance > 0 && f.Rand.Float64() >= f.Chance {
			continue
		}
		f.met++
		return f
	}
	return nil
}

// Call is a request as it was answered.
type Call struct {
	Route, Path string
	Job         int64
	State       string // of a report, and its log's checksum
	Checksum    string
	Status      int // as decided, also if the answer was lost
	Start, End  time.Time
	Header      http.Header
	Lost        bool
}

// Calls are all requests that were answered, of a route or of all for "".
func (g *GitLab) Calls(route string) []Call {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(g.calls), func(c Call) bool { return route != "" && c.Route != route })
}

// faulty puts mishaps and the journal around a handler.
func (g *GitLab) faulty(route string, h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := g.callOf(route, r)
		if err != nil {
			return
		}
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = newID()
		}
		w.Header().Set("X-Request-Id", id)
		f := g.faultFor(route, c)
		rec := &recorder{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			c.Status, c.End = rec.status, g.o.Now()
			g.mu.Lock()
			g.calls = append(g.calls, *c)
			g.mu.Unlock()
		}()
		if f == nil {
			h(rec, r)
			return
		}
		f.strike(rec, r, h, c)
	})
}

// callOf is a request as the journal has it.
func (g *GitLab) callOf(route string, r *http.Request) (*Call, error) {
	c := &Call{Route: route, Path: r.URL.RequestURI(), Start: g.o.Now(), Header: r.Header.Clone()}
	c.Job, _ = strconv.ParseInt(r.PathValue("id"), 10, 64)
	if !strings.HasPrefix(route, "PUT ") {
		return c, nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var b updateBody
	if json.Unmarshal(body, &b) == nil {
		c.State, c.Checksum = b.State, b.Output.Checksum
	}
	return c, nil
}

// strike answers a request with the mishap, by the handler where that is part of it.
func (f *Fault) strike(w *recorder, r *http.Request, h http.HandlerFunc, c *Call) {
	if f.Do != nil {
		f.Do()
	}
	wait(r, f.Delay)
	head := func() {
		for k, v := range f.Header {
			w.Header().Set(k, v)
		}
	}
	switch {
	case f.Reset:
		c.Lost = true
		w.status = 0
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		head()
		fail(w, f.Status, http.StatusText(f.Status))
	case f.LoseReply || f.After > 0 || f.Header != nil:
		held := &held{header: w.Header(), status: http.StatusOK}
		h(held, r)
		w.status = held.status
		wait(r, f.After)
		if f.LoseReply {
			c.Lost = true
			panic(http.ErrAbortHandler)
		}
		head()
		w.WriteHeader(held.status)
		w.Write(held.body.Bytes())
	default:
		h(w, r)
	}
}

func wait(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// held keeps an answer that may never be sent.
type held struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (h *held) Header() http.Header         { return h.header }
func (h *held) WriteHeader(status int)      { h.status = status }
func (h *held) Write(b []byte) (int, error) { return h.body.Write(b) }
