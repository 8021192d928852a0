package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/roost-ci/roost/coordinator/api"
)

// isTerminal reports whether w is a terminal that can redraw a line.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
}

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
