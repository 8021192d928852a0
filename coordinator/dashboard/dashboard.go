// Package dashboard renders the status pages: plain HTML made on the server,
// without scripts, without anything from elsewhere. What jobs, hosts and projects
// are called comes from strangers and is only ever text.
package dashboard

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
)

//go:embed templates style.css
var files embed.FS

// policy lets a page load its style sheet and post nothing anywhere.
const policy = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"

// Pages renders. It is safe for use by several goroutines.
type Pages struct {
	pages map[string]*template.Template
	style []byte
}

// New reads the templates.
func New() (*Pages, error) {
	p := &Pages{pages: map[string]*template.Template{}}
	for _, name := range []string{"index", "pipeline", "log", "login", "error"} {
		t, err := template.New("frame.html").Funcs(funcs).ParseFS(files, "templates/frame.html", "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("page %s: %w", name, err)
		}
		p.pages[name] = t
	}
	var err error
	p.style, err = files.ReadFile("style.css")
	return p, err
}

// Frame is what every page has.
type Frame struct {
	Title   string
	Refresh int // seconds, 0 for never
	// Stopped says that the page would be loaded again if the reader had not stopped that.
	Stopped bool
	Version string
	Now     time.Time
	Page    any
}

// Index is the first page.
type Index struct {
	Hosts     []api.Host
	Pipelines []Run
}

// Run is a pipeline with what its jobs moved.
type Run struct {
	api.Pipeline
	Moves Moves
}

// Moves sums what attaching cost over the jobs of a pipeline.
type Moves struct {
	Jobs     int // that started on the files of others
	Needed   int64
	Moved    int64
	AttachMS float64 // the slowest
}

// Sum adds up the jobs of a pipeline.
func Sum(jobs []api.Job) Moves {
	var m Moves
	for _, j := range jobs {
		if j.Workspace.State != api.StateFull {
			continue
		}
		m.Jobs++
		m.Needed += j.Workspace.BytesNeeded
		m.Moved += j.Workspace.BytesMoved
		m.AttachMS = max(m.AttachMS, j.Workspace.AttachMS)
	}
	return m
}

// Pipeline is the page of one pipeline.
type Pipeline struct {
	Run
	Events []api.Event
	// Cut says that there were more.
	Cut bool
}

// fewEvents is how many are shown without being asked for: below hundreds of them
// nobody finds the page's end.
const fewEvents = 100

// Few reports whether the events are few.
func (p Pipeline) Few() bool { return len(p.Events) <= fewEvents }

// Log is the page of one attempt's log.
type Log struct {
	Attempt  string
	Pipeline string // its id
	Text     string
	// Cut says that only the end is shown.
	Cut bool
}

// Login is the page of somebody without a session.
type Login struct {
	// Wrong says that the address had a token, which is not the right one.
	Wrong bool
}

// Error is a page that says what went wrong.
type Error struct{ Text string }

// Index writes the first page.
func (p *Pages) Index(w http.ResponseWriter, f Frame) error { return p.write(w, 200, "index", f) }

// Pipeline writes the page of a pipeline.
func (p *Pages) Pipeline(w http.ResponseWriter, f Frame) error { return p.write(w, 200, "pipeline", f) }

// Log writes the page of a log.
func (p *Pages) Log(w http.ResponseWriter, f Frame) error { return p.write(w, 200, "log", f) }

// Login writes the page that somebody without a session gets.
func (p *Pages) Login(w http.ResponseWriter, f Frame) error { return p.write(w, 401, "login", f) }

// Error writes the page of an error.
func (p *Pages) Error(w http.ResponseWriter, status int, f Frame) error {
	return p.write(w, status, "error", f)
}

// Style writes the style sheet.
func (p *Pages) Style(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	w.Header().Set("Cache-Control", "max-age=300")
	_, err := w.Write(p.style)
	return err
}

func (p *Pages) write(w http.ResponseWriter, status int, name string, f Frame) error {
	var b bytes.Buffer
	if err := p.pages[name].Execute(&b, f); err != nil {
		return fmt.Errorf("page %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return err
}
