package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/internal/pause"
)

// child is a daemon of ours in a process of its own: started, watched, and
// started again when it dies. It stops when its standard input ends, so it does
// not outlive us even if we are killed.
type child struct {
	name string
	// args makes the command line; url is where the child served before, "" at
	// first, so that a coordinator comes back at the address that agents know.
	args func(url string) []string
	log  string // file that gets its standard error
	note hclog.Logger
	// stopAfter is how long it has to stop by itself.
	stopAfter time.Duration

	mu  sync.Mutex // guards url and pid
	url string
	pid int
}

// restartPause is the first pause before a dead child is started again; it
// doubles up to a few seconds.
const restartPause = 100 * time.Millisecond

// run keeps the child alive until ctx ends. first gets one value: nil when the
// child serves for the first time, or why it can't.
func (c *child) run(ctx context.Context, first chan<- error) {
	deaths := pause.Tries{Backoff: pause.Backoff{First: restartPause, Most: 5 * time.Second}}
	for {
		began := time.Now()
		err := c.once(ctx, first)
		if ctx.Err() != nil {
			return
		}
		if first != nil && !c.served() {
			first <- err
			return
		}
		first = nil
		c.note.Warn(c.name+" died; starting it again", "how", howDied(err), "log", c.log)
		if time.Since(began) > time.Minute {
			deaths.Reset()
		}
		if deaths.Wait(ctx, 0) != nil {
			return
		}
	}
}

func (c *child) served() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pid != 0
}

// once starts the child and waits for its end.
func (c *child) once(ctx context.Context, first chan<- error) error {
	logFile, from, err := c.openLog()
	if err != nil {
		return err
	}
	defer logFile.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.mu.Lock()
	url := c.url
	c.mu.Unlock()
	cmd := osexec.Command(self, c.args(url)...) //nolint:noctx // it is stopped by its standard input, in order
	// The file itself, not a pipe to us: a child whose parent was killed cleans up,
	// and must not die of what it has to say.
	cmd.Stderr = logFile
	ownGroup(cmd)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() {
		io.WriteString(in, stopWord) //nolint:errcheck // it may be gone
		in.Close()
		time.AfterFunc(c.stopAfter, func() { cmd.Process.Kill() }) //nolint:errcheck // it may be gone
	})()
	c.listen(out, cmd.Process.Pid, first)
	err = cmd.Wait()
	if said := lastWords(c.log, from); err != nil && said != "" {
		return &childError{name: c.name, said: said, err: err}
	}
	return err
}

// openLog opens the log and tells where it ends now.
func (c *child) openLog() (f *os.File, end int64, err error) {
	if err := os.MkdirAll(filepath.Dir(c.log), 0o700); err != nil {
		return nil, 0, err
	}
	f, err = os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, err
	}
	if end, err = f.Seek(0, io.SeekEnd); err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, end, nil
}

// listen reads what the child prints until it ends, and learns from it where it serves.
func (c *child) listen(out io.Reader, pid int, first chan<- error) {
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		var r ready
		if json.Unmarshal(lines.Bytes(), &r) != nil || r.Ready == "" {
			continue
		}
		c.mu.Lock()
		again := c.pid != 0
		c.url, c.pid = r.URL, pid
		c.mu.Unlock()
		if !again && first != nil {
			first <- nil
		}
	}
}

// maxWords bounds what is read of a child's log when it has died.
const maxWords = 4096

// lastWords is what a child wrote last to its log, which began at from: the lines
// from the last "roost:" on, if there is one.
func lastWords(log string, from int64) string {
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil {
		from = max(from, fi.Size()-maxWords)
	}
	b, err := io.ReadAll(io.NewSectionReader(f, from, maxWords))
	if err != nil {
		return ""
	}
	s := string(b)
	if i := strings.LastIndex(s, "roost: "); i >= 0 {
		s = s[i:]
	}
	return strings.TrimSpace(s)
}

// childError is the death of a child that had something to say.
type childError struct {
	name, said string
	err        error
}

func (e *childError) Error() string {
	return fmt.Sprintf("%s: %s", e.name, strings.TrimPrefix(e.said, "roost: "))
}

func (e *childError) Unwrap() error { return e.err }

// howDied is the end of a process in few words: what it said last, if it said
// why it gave up, else its status. The rest is in its log.
func howDied(err error) string {
	var e *childError
	switch {
	case err == nil:
		return "exit status 0"
	case !errors.As(err, &e):
		return err.Error()
	case strings.HasPrefix(e.said, "roost: "):
		first, _, _ := strings.Cut(strings.TrimPrefix(e.said, "roost: "), "\n")
		return first
	}
	return e.err.Error()
}

// exitCode is the status that the child ended with, so that ours can be the same.
func (e *childError) exitCode() int {
	var x *osexec.ExitError
	if errors.As(e.err, &x) && x.ExitCode() > 0 {
		return x.ExitCode()
	}
	return exitUnreachable
}
