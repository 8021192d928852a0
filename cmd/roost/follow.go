package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/snapshot"
)

// Waits of a follower. A coordinator that restarts is waited for: nothing that it
// accepted is lost.
const (
	eventWait     = 25 * time.Second
	retryPause    = 300 * time.Millisecond
	unreachable   = time.Minute // without an answer, until we give up
	cancelTimeout = 45 * time.Second
	failedLines   = 25 // of a failed job's log
)

// follower shows a pipeline's progress: a line for each thing that happens, and
// on a terminal one more below them that tells what is going on now.
type follower struct {
	client *api.Client
	p      api.Pipeline
	logs   bool

	mu     sync.Mutex // guards what follows: lines come from several goroutines
	out    io.Writer
	tty    bool
	width  int // of the column of names
	began  time.Time
	status map[string]api.Status
	since  map[string]time.Time
}

// Bounds of the column of names, in cells.
const minNames, maxNames = 10, 32

func newFollower(c *api.Client, p api.Pipeline, out io.Writer, logs bool) *follower {
	f := &follower{
		client: c, p: p, out: out, logs: logs, began: time.Now(), width: minNames,
		status: map[string]api.Status{}, since: map[string]time.Time{},
	}
	f.tty = isTerminal(out)
	for _, j := range p.Jobs {
		f.status[j.Name] = j.Status
		f.width = max(f.width, min(width(j.Name), maxNames))
	}
	return f
}

// isTerminal reports whether w is a terminal that can redraw a line.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

// quiet shows nothing at all.
func (f *follower) quiet() { f.out, f.tty, f.logs = io.Discard, false, false }

// follow returns when the pipeline has ended. When ctx ends first it cancels the
// pipeline and waits, within a bound, until its jobs are gone.
func (f *follower) follow(ctx context.Context) error {
	f.line("pipeline %d: %d %s of %s", f.p.Number, len(f.status), plural(len(f.status), "job"), f.p.Project)
	stopTicker := f.tick()
	defer stopTicker()
	var logs sync.WaitGroup
	defer logs.Wait()
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { f.cancel(run); time.AfterFunc(cancelTimeout, cancel) })()
	var seq int64
	lastAnswer := time.Now()
	for {
		events, err := f.client.Events(run, f.p.ID, seq, eventWait)
		if err != nil {
			if run.Err() != nil {
				return &exitError{code: exitInterrupted, err: errors.New("the pipeline did not end in time; its agents stop it")}
			}
			if !api.Unreachable(err) || time.Since(lastAnswer) > unreachable {
				return apiError(ctx, "following pipeline", err)
			}
			time.Sleep(retryPause)
			continue
		}
		lastAnswer = time.Now()
		for _, e := range events {
			seq = e.Seq
			f.event(run, e, &logs)
			if e.Job == "" && e.Status.Ended() {
				return nil
			}
		}
	}
}

func (f *follower) cancel(ctx context.Context) {
	f.line("canceling pipeline %d", f.p.Number)
	ctx, stop := context.WithTimeout(ctx, cancelTimeout)
	defer stop()
	for f.client.CancelPipeline(ctx, f.p.ID) != nil && ctx.Err() == nil {
		time.Sleep(retryPause)
	}
}

// event shows one event.
func (f *follower) event(ctx context.Context, e api.Event, logs *sync.WaitGroup) {
	if e.Job == "" {
		return // the first line and the table say it
	}
	f.mu.Lock()
	was, since := f.status[e.Job], f.since[e.Job]
	f.status[e.Job] = e.Status
	if was != e.Status {
		f.since[e.Job] = time.UnixMilli(e.TimeMS)
	}
	f.mu.Unlock()
	text := eventText(e)
	if was == api.StatusRunning && e.Status == api.StatusSuccess {
		text = strings.TrimSpace("in " + millis(max(1, float64(time.UnixMilli(e.TimeMS).Sub(since).Milliseconds()))) + "  " + text)
	}
	// That a job waits for its turn is no news, unless it had one: the last line of a
	// terminal counts who waits.
	turn := e.Status == api.StatusQueued && e.Code == api.WaitSlot && was != api.StatusRunning && was != api.StatusAssigned
	if !turn && (e.Status != api.StatusQueued || text != "") {
		f.jobLine(e.Job, "%-9s %s", e.Status, text)
	}
	switch {
	case e.Status == api.StatusRunning && f.logs:
		if id := f.attempt(ctx, e.Job); id != "" {
			logs.Go(func() { f.stream(ctx, e.Job, id) })
		}
	case e.Status == api.StatusFailed && (!f.logs || was != api.StatusRunning):
		f.tail(ctx, e.Job)
	}
}

// eventText is what an event says beyond its status, on one line.
func eventText(e api.Event) string {
	text := strings.TrimPrefix(strings.TrimPrefix(e.Text, string(e.Status)), ":")
	text, _, _ = strings.Cut(text, threeWays) // the end of the run tells them
	if text = strings.TrimSpace(text); text == string(e.Status) {
		return ""
	}
	return text
}

// threeWays is where an error of a merge goes on with its cures.
const threeWays = ". Three ways out: "

// jobLine prints a line about a job.
func (f *follower) jobLine(job, format string, a ...any) {
	f.line("%s%*s %s", job, max(0, f.width-width(job)), "", fmt.Sprintf(format, a...))
}

// attempt is the newest attempt of a job, "" when that can't be had.
func (f *follower) attempt(ctx context.Context, job string) snapshot.ID {
	p, err := f.client.Pipeline(ctx, f.p.ID)
	if err != nil {
		return ""
	}
	for _, j := range p.Jobs {
		if j.Name == job {
			return j.AttemptID
		}
	}
	return ""
}

// stream prints a job's log as it grows.
func (f *follower) stream(ctx context.Context, job string, id snapshot.ID) {
	var off int64
	var rest []byte
	for ctx.Err() == nil {
		c, err := f.client.Log(ctx, id, off, eventWait)
		if err != nil {
			if !api.Unreachable(err) {
				return
			}
			time.Sleep(retryPause)
			continue
		}
		off = c.Next
		rest = append(rest, c.Data...)
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			f.jobLine(job, "| %s", f.clean(rest[:i]))
			rest = rest[i+1:]
		}
		if c.Ended {
			if len(rest) > 0 {
				f.jobLine(job, "| %s", f.clean(rest))
			}
			return
		}
	}
}

// tail prints the last lines of a failed job's log, but for Roost's own last one:
// it says again why the job failed.
func (f *follower) tail(ctx context.Context, job string) {
	id := f.attempt(ctx, job)
	if id == "" {
		return
	}
	var off int64
	var text []byte
	before := 0 // lines
	for {
		c, err := f.client.Log(ctx, id, off, 0)
		if err != nil || len(c.Data) == 0 {
			break
		}
		off = c.Next
		text = append(text, c.Data...)
		if over := len(text) - 64<<10; over > 0 {
			before += bytes.Count(text[:over], []byte("\n"))
			text = append(text[:0], text[over:]...)
		}
	}
	lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
	if n := len(lines) - 1; strings.Contains(lines[n], "roost: job failed") {
		lines = lines[:n]
	}
	if over := max(0, len(lines)-failedLines); over+before > 0 {
		f.jobLine(job, "| (%d lines before; roost run --logs prints all, and the status page of roost up)", over+before)
		lines = lines[over:]
	}
	for _, l := range lines {
		f.jobLine(job, "| %s", f.clean([]byte(l)))
	}
}

// clean makes a job's output fit to be shown. Colours are for terminals.
func (f *follower) clean(b []byte) string { return clean(b, f.tty && os.Getenv("NO_COLOR") == "") }

// clean drops what could move a terminal's cursor or change its state, colours
// aside: a job's output is not trusted with the person's terminal. Without colours
// it drops them too.
func clean(b []byte, colours bool) string {
	if i := bytes.LastIndexByte(bytes.TrimRight(b, "\r"), '\r'); i >= 0 {
		b = b[i+1:]
	}
	var out strings.Builder
	for i := 0; i < len(b); i++ {
		if n := colourLen(b[i:]); n > 0 {
			if colours {
				out.Write(b[i : i+n])
			}
			i += n - 1
			continue
		}
		if b[i] >= ' ' && b[i] != 0x7f || b[i] == '\t' {
			out.WriteByte(b[i])
		}
	}
	return strings.Map(func(r rune) rune {
		if 0x80 <= r && r < 0xa0 { // the same commands once more: U+009B is ESC [
			return -1
		}
		return r
	}, strings.ToValidUTF8(out.String(), "\ufffd"))
}

// colourLen is the length of the colour sequence (ESC [ digits ; m) at the start
// of b, or 0.
func colourLen(b []byte) int {
	if len(b) < 3 || b[0] != 0x1b || b[1] != '[' {
		return 0
	}
	for i := 2; i < len(b) && i < 24; i++ {
		if b[i] == 'm' {
			return i + 1
		}
		if (b[i] < '0' || b[i] > '9') && b[i] != ';' {
			return 0
		}
	}
	return 0
}

// line prints a line above the status line.
func (f *follower) line(format string, a ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tty {
		fmt.Fprint(f.out, "\r\x1b[K")
	}
	fmt.Fprintf(f.out, "%6.1fs  %s\n", time.Since(f.began).Seconds(), strings.TrimRight(fmt.Sprintf(format, a...), " "))
}

// aboveStatus is a terminal for what others write while the status line stands.
type aboveStatus struct{ w io.Writer }

func (a *aboveStatus) Write(p []byte) (int, error) {
	if isTerminal(a.w) {
		if _, err := io.WriteString(a.w, "\r\x1b[K"); err != nil {
			return 0, err
		}
	}
	return a.w.Write(p)
}

// tick redraws the status line of a terminal until the returned function is called.
func (f *follower) tick() func() {
	if !f.tty {
		return func() {}
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-stop:
				f.mu.Lock()
				defer f.mu.Unlock()
				fmt.Fprint(f.out, "\r\x1b[K")
				return
			case <-t.C:
				f.draw()
			}
		}
	}()
	return func() { close(stop); <-done }
}

// draw writes the status line: what runs, for how long, and what waits.
func (f *follower) draw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	var running []string
	ended, waiting := 0, 0
	for _, j := range f.p.Jobs {
		switch s := f.status[j.Name]; {
		case s.Ended():
			ended++
		case s == api.StatusRunning || s == api.StatusAssigned:
			running = append(running, fmt.Sprintf("%s %.0fs", j.Name, time.Since(f.since[j.Name]).Seconds()))
		default:
			waiting++
		}
	}
	s := fmt.Sprintf("%6.1fs  %d/%d ended, %d waiting", time.Since(f.began).Seconds(), ended, len(f.p.Jobs), waiting)
	if len(running) > 0 {
		s += "; running: " + strings.Join(running, ", ")
	}
	if w, _, err := term.GetSize(int(os.Stderr.Fd())); err == nil && w > 4 {
		s = shorten(s, w-1)
	}
	fmt.Fprint(f.out, "\r\x1b[K"+s)
}
