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
