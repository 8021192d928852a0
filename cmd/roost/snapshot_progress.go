package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/roost-ci/roost/snapshot/store"
)

// Redrawing of the progress line.
const (
	redraw   = 200 * time.Millisecond
	patience = 400 * time.Millisecond // what takes less shows nothing
)

// progress shows how far something is on a terminal, until stop is called; it
// shows nothing anywhere else.
func (o *opened) progress(cmd *cobra.Command, what string, p *store.Progress) (stop func()) {
	return o.progressOf(cmd, what, func() (total, done int64) { return p.Total.Load(), p.Done.Load() })
}

// progressOf is progress of what counts in another way.
func (o *opened) progressOf(cmd *cobra.Command, what string, far func() (total, done int64)) (stop func()) {
	w := cmd.ErrOrStderr()
	if o.asJSON || !isTerminal(w) {
		return func() {}
	}
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { draw(w, what, far, end) })
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
}

func draw(w io.Writer, what string, far func() (total, done int64), end <-chan struct{}) {
	began := time.Now()
	t := time.NewTicker(redraw)
	defer t.Stop()
	drawn := false
	for {
		select {
		case <-t.C:
			if since := time.Since(began); since > patience {
				fmt.Fprint(w, "\r\x1b[K", fit(w, progressLine(what, far, since)))
				drawn = true
			}
		case <-end:
			if drawn {
				fmt.Fprint(w, "\r\x1b[K")
			}
			return
		}
	}
}

// fit cuts a line to the width of the terminal that it is drawn on: a longer one goes on
// in the next, where nobody clears it.
func fit(w io.Writer, line string) string {
	if f, ok := w.(*os.File); ok {
		if cells, _, err := term.GetSize(int(f.Fd())); err == nil && cells > 4 {
			return shorten(line, cells-1)
		}
	}
	return line
}

func progressLine(what string, far func() (total, done int64), since time.Duration) string {
	total, done := far()
	if total > 0 {
		done = min(done, total) // what is written may be more than what is asked for
	}
	rate := float64(done) / since.Seconds()
	switch {
	case total == 0 && done == 0:
		return what + " …"
	case total == 0:
		return fmt.Sprintf("%s  %s  %s/s", what, size(done), size(int64(rate)))
	}
	line := fmt.Sprintf("%s  %s of %s  %3.0f%%  %s/s", what, size(done), size(total),
		100*float64(done)/float64(total), size(int64(rate)))
	if left := total - done; left > 0 && rate > 0 && since > 2*time.Second {
		line += "  " + (time.Duration(float64(left)/rate) * time.Second).String() + " left"
	}
	return line
}
