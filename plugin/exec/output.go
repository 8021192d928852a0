//go:build !linux

package exec

import (
	"io"
	"os"
	"sync"
	"time"
)

// output is the one pipe that all of a job writes to, so that its two streams
// stay in order, and the goroutine that empties it.
type output struct {
	r, w *os.File
	done chan struct{}
	once sync.Once
}

// newOutput starts to copy what is written to w into log. A log that refuses
// bytes loses them; the job goes on.
func newOutput(log io.Writer) (*output, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	growPipe(w)
	o := &output{r: r, w: w, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		buf := make([]byte, 256<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 {
				log.Write(buf[:n]) //nolint:errcheck // see above
			}
			if err != nil {
				return
			}
		}
	}()
	return o, nil
}

// drain waits for the last byte. Whoever still holds the other end then is no
// process of the job's.
func (o *output) drain() {
	o.once.Do(func() { o.w.Close() }) //nolint:errcheck // our copy; nothing was buffered
	t := time.NewTimer(drainTimeout)
	defer t.Stop()
	select {
	case <-o.done:
	case <-t.C:
	}
}

// close ends the copying.
func (o *output) close() {
	o.once.Do(func() { o.w.Close() }) //nolint:errcheck // as above
	o.r.Close()                       //nolint:errcheck // ends the goroutine's Read
	<-o.done
}
