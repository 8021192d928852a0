// Package transfertest has blob servers and connections that misbehave: as S3, proxies and
// networks do, but when a test says so.
package transfertest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/roost-ci/roost/transfer/blob"
)

// Act answers one request in the place of next, which would answer well.
type Act func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Server is a blob server with a script.
type Server struct {
	*httptest.Server

	mu       sync.Mutex // guards what follows
	script   []Act
	always   func(*http.Request) Act
	requests []string
}

// NewServer serves s at URL(), well unless told otherwise, until the test ends.
func NewServer(t testing.TB, s blob.Store) *Server {
	t.Helper()
	srv := &Server{}
	next := http.StripPrefix("/v1/blobs", blob.Handler(s, blob.HandlerOptions{Stall: 10 * time.Second}))
	life, end := context.WithCancel(context.Background())
	srv.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server does not notice that a client is gone whose body it has not read.
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(life, cancel)()
		r = r.WithContext(ctx)
		if a := srv.act(r); a != nil {
			a(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}))
	t.Cleanup(func() {
		end()
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

// Blobs is what to give to blob.NewHTTP.
func (s *Server) Blobs() string { return s.URL + "/v1/blobs" }

// Script makes the next requests, one each, be answered by acts; nil is well.
func (s *Server) Script(acts ...Act) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, acts...)
}

// Always decides on each request that the script does not. nil is well.
func (s *Server) Always(f func(*http.Request) Act) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = f
}

// Requests returns the requests so far, as "METHOD /path Range".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

func (s *Server) act(r *http.Request) Act {
	s.mu.Lock()
	defer s.mu.Unlock()
	line := r.Method + " " + r.URL.Path
	if h := r.Header.Get("Range"); h != "" {
		line += " " + h
	}
	s.requests = append(s.requests, line)
	if len(s.script) > 0 {
		a := s.script[0]
		s.script = s.script[1:]
		return a
	}
	if s.always != nil {
		return s.always(r)
	}
	return nil
}

// Status answers with a status, and Retry-After if seconds is positive.
func Status(code, seconds int) Act {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if seconds > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(seconds))
		}
		http.Error(w, `{"code":"TEST","error":"as the test wants"}`, code)
	}
}

// Hang says nothing until the client goes, or the test ends.
func Hang() Act {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
}

// CutAfter answers well, but only with n bytes of the body. Then the connection ends.
func CutAfter(n int64) Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutter{ResponseWriter: w, left: n, end: func() { panic(http.ErrAbortHandler) }}, r)
	}
}

// HangAfter answers well, but after n bytes of the body nothing more comes.
func HangAfter(n int64) Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&cutter{ResponseWriter: w, left: n, end: func() {
			<-r.Context().Done()
			panic(http.ErrAbortHandler)
		}}, r)
	}
}

// cutter lets left bytes of a body through.
type cutter struct {
	http.ResponseWriter
	left int64
	end  func()
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(int64(len(p)), c.left)])
	if c.left -= int64(n); c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush() //nolint:forcetypeassert // a server's writer is one
		c.end()
	}
	return n, err
}

// CutUpload reads n bytes of what is sent and ends the connection.
func CutUpload(n int64) Act {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		io.CopyN(io.Discard, r.Body, n) //nolint:errcheck // about to break it anyway
		panic(http.ErrAbortHandler)
	}
}

// LoseReply does what was asked and ends the connection without saying so.
func LoseReply() Act {
	return func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
}

// Truncated is a whole answer of n bytes that looks as if there were no more: the
// body cut and Content-Length with it.
func Truncated(n int) Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		w.Header().Set("Content-Length", strconv.Itoa(n))
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()[:n]) //nolint:errcheck // a test's server
	}
}

// Header answers well but for one header.
func Header(key, value string) Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		rec := httptest.NewRecorder()
		next.ServeHTTP(rec, r)
		maps.Copy(w.Header(), rec.Header())
		w.Header().Set(key, value)
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()) //nolint:errcheck // a test's server
	}
}

// IgnoreRange answers with the whole blob.
func IgnoreRange() Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Range")
		next.ServeHTTP(w, r)
	}
}

// ShiftRange answers with the right number of bytes from the wrong place, and says so.
func ShiftRange(by int64) Act { return otherRange(by, by) }

// ShortRange answers with fewer bytes than asked for, and says so.
func ShortRange(by int64) Act { return otherRange(0, -by) }

func otherRange(first, last int64) Act {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		var a, b int64
		if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &a, &b); n == 2 {
			r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", a+first, b+last))
		}
		next.ServeHTTP(w, r)
	}
}
