package coordinator

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/roost-ci/roost/coordinator/api"
	"github.com/roost-ci/roost/coordinator/state"
	"github.com/roost-ci/roost/snapshot"
)

// maxRead is the most of a log that one answer has.
const maxRead = 1 << 20

// appendLog takes a piece of a live attempt's log.
func (c *call) appendLog() error {
	ref, err := c.attempt()
	if err != nil {
		return err
	}
	off, end, err := contentRange(c.r.Header.Get("Content-Range"))
	if err != nil {
		return err
	}
	p, err := io.ReadAll(http.MaxBytesReader(c.w, c.r.Body, maxPatch))
	if err != nil {
		return &api.Error{HTTP: 413, Code: api.CodeInvalid, Text: fmt.Sprintf("a piece of a log has up to %d bytes, and all that its range says", maxPatch)}
	}
	if int64(len(p)) != end-off+1 {
		return invalid("Content-Range says %d bytes, the body has %d", end-off+1, len(p))
	}
	if err := c.s.mayLog(ref); err != nil {
		return err
	}
	next, err := c.s.logs.append(ref.Attempt, off, p)
	var gap *gapError
	if errors.As(err, &gap) {
		c.w.Header().Set(api.HeaderOffset, strconv.FormatInt(gap.want, 10))
		return &api.Error{HTTP: 416, Code: api.CodeInvalid, Text: gap.Error()}
	}
	if err != nil {
		return err
	}
	c.w.Header().Set(api.HeaderOffset, strconv.FormatInt(next, 10))
	return c.json(200, struct{}{})
}

// contentRange reads "start-end", both of them part of the piece; "bytes " before
// and "/*" after it are allowed.
func contentRange(h string) (start, end int64, err error) {
	h = strings.TrimPrefix(h, "bytes ")
	h, _, _ = strings.Cut(h, "/")
	a, b, ok := strings.Cut(h, "-")
	if ok {
		if start, err = strconv.ParseInt(a, 10, 64); err == nil {
			end, err = strconv.ParseInt(b, 10, 64)
		}
	}
	if !ok || err != nil || start < 0 || end < start || end-start >= maxPatch {
		return 0, 0, invalid("Content-Range: want START-END of up to %d bytes", maxPatch)
	}
	return start, end, nil
}

// mayLog checks that an attempt is live under its epoch.
func (s *Server) mayLog(ref api.AttemptRef) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a := s.world.attempts[ref.Attempt]
	switch {
	case a == nil:
		return fenced(ref.Attempt, "it is not known any more")
	case a.Epoch != ref.Epoch:
		return fenced(ref.Attempt, fmt.Sprintf("its epoch is %d, not %d", a.Epoch, ref.Epoch))
	case a.Stage == state.AttemptEnded:
		return fenced(ref.Attempt, a.Reason)
	}
	return nil
}

// readLog answers with a piece of a log, waiting for its first byte.
func (c *call) readLog() error {
	id, err := c.id("attempt")
	if err != nil {
		return err
	}
	off, err := c.query("offset", 0)
	if err != nil {
		return err
	}
	wait, err := c.waitFor()
	if err != nil {
		return err
	}
	p, size, ended, err := c.s.awaitLog(c.r, id, off, wait)
	if err != nil {
		return err
	}
	h := c.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Set(api.HeaderOffset, strconv.FormatInt(size, 10))
	h.Set(api.HeaderLogEnd, strconv.FormatBool(ended))
	c.w.WriteHeader(200)
	_, err = c.w.Write(p)
	if err != nil {
		c.s.log.Debug("log answer", "attempt", id, "error", err)
	}
	return nil
}

// awaitLog reads a piece of a log once there is one, or the log has ended, or the
// time is over.
func (s *Server) awaitLog(r *http.Request, id snapshot.ID, off int64, wait time.Duration) (p []byte, size int64, ended bool, err error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for over := wait == 0; ; {
		changed, stop := s.hub.wait(logOf(string(id)))
		// The end first: what was written before it is then in the file.
		if ended, err = s.logEnded(r, id); err == nil {
			p, size, err = s.logs.read(id, off, maxRead)
		}
		if err != nil || len(p) > 0 || ended || over {
			stop()
			return p, size, ended, err
		}
		select {
		case <-changed:
		case <-timer.C:
			over = true
		case <-s.stopping:
			over = true
		case <-r.Context().Done():
			err = r.Context().Err()
		}
		stop()
		if err != nil {
			return nil, 0, false, err
		}
	}
}

// logEnded reports whether an attempt is over, so that its log will not grow.
func (s *Server) logEnded(r *http.Request, id snapshot.ID) (bool, error) {
	_, ended, err := s.jobOf(r, id)
	return ended, err
}

// jobOf is the job of an attempt, and whether the attempt has ended.
func (s *Server) jobOf(r *http.Request, id snapshot.ID) (job string, ended bool, err error) {
	s.mu.RLock()
	a := s.world.attempts[id]
	s.mu.RUnlock()
	if a == nil {
		if a, err = s.state.Attempt(r.Context(), id); err != nil {
			return "", false, err
		}
	}
	return a.Job, a.Stage == state.AttemptEnded, nil
}
