package blob

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/roost-ci/roost/snapshot"
)

// HandlerOptions are the knobs of a Handler. The zero value works.
type HandlerOptions struct {
	MaxBytes int64         // of one blob; default 1 GiB: packs are small, the index of a huge tree is not
	Stall    time.Duration // a peer without progress for so long is cut off; default 60 s
	Log      hclog.Logger
	Now      func() time.Time
}

// Handler serves GET, HEAD and PUT of /{digest} from s, as PROTOCOL.md has it: 201
// (stored now) and 200 (was there) of a PUT say that the blob is durable. If s has
// Refs, it serves GET and PUT of /refs/{id}, too. Mount it behind http.StripPrefix,
// and behind whatever checks tokens: it checks none.
//
// A client should send "Expect: 100-continue" with a PUT: a blob that is there, or
// is refused, is answered without its body. A GET that breaks after its status went
// out ends in panic(http.ErrAbortHandler), which middleware must let through.
func Handler(s Store, o HandlerOptions) http.Handler {
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &handler{store: s, o: o}
	// What is not in here is refused.
	h.methods = map[string]func(*request) error{
		http.MethodGet:  h.get,
		http.MethodHead: h.get,
		http.MethodPut:  h.put,
	}
	return h
}

type handler struct {
	store   Store
	o       HandlerOptions
	methods map[string]func(*request) error
}

// request is one call and what its answer needs.
type request struct {
	*http.Request
	w      http.ResponseWriter
	rc     *http.ResponseController
	digest snapshot.Digest
	begun  bool // the status line is out: an error can only cut the connection
}

// ServeHTTP implements http.Handler.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := &request{Request: r, w: w, rc: http.NewResponseController(w)}
	err := h.serve(q)
	if q.ContentLength != 0 {
		// The server reads what the handler left of a body, to use the connection again.
		q.rc.SetReadDeadline(h.o.Now().Add(h.o.Stall)) //nolint:errcheck // a test's recorder has none
	}
	if err == nil {
		return
	}
	if q.begun {
		h.o.Log.Debug("blob not sent whole", "digest", q.digest, "error", err)
		panic(http.ErrAbortHandler) // the only way to tell the client that it is not whole
	}
	h.refuse(q, err)
}

func (h *handler) serve(q *request) error {
	if strings.HasPrefix(q.URL.Path, refPrefix) {
		return h.ref(q)
	}
	d, err := snapshot.ParseDigest(strings.TrimPrefix(q.URL.Path, "/"))
	if err != nil || d.IsZero() || q.URL.RawPath != "" { // a blob has one spelling
		return &StatusError{Status: http.StatusNotFound, Code: codeNotFound, Text: "no such blob"}
	}
	q.digest = d
	f, ok := h.methods[q.Method]
	if !ok {
		q.w.Header().Set("Allow", "GET, HEAD, PUT")
		return &StatusError{Status: http.StatusMethodNotAllowed, Code: codeInvalid, Text: "a blob can be got and put"}
	}
	return f(q)
}

// refuse answers with the status that err stands for.
func (h *handler) refuse(q *request, err error) {
	e := statusOf(err)
	if e.Status >= 500 {
		h.o.Log.Error("blob request", "method", q.Method, "digest", q.digest, "error", err)
	}
	if e.RetryAfter > 0 {
		q.w.Header().Set("Retry-After", strconv.Itoa(int(e.RetryAfter.Seconds())))
	}
	for _, k := range []string{"Content-Length", "ETag", "Cache-Control"} {
		q.w.Header().Del(k)
	}
	q.w.Header().Set("Content-Type", "application/json")
	q.w.WriteHeader(e.Status)
	json.NewEncoder(q.w).Encode(e) //nolint:errcheck // the client is gone then
}

// statusOf maps what a Store returns to what a client is told. Details of the disk
// stay here.
func statusOf(err error) *StatusError {
	var e *StatusError
	var bad *snapshot.CorruptError
	var tooBig *http.MaxBytesError
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, snapshot.ErrNotFound):
		return &StatusError{Status: http.StatusNotFound, Code: codeNotFound, Text: "no such blob"}
	case errors.As(err, &bad):
		return &StatusError{Status: http.StatusUnprocessableEntity, Code: codeDigest, Text: bad.Error()}
	case errors.Is(err, ErrFull):
		return &StatusError{
			Status: http.StatusInsufficientStorage, Code: codeFull,
			Text: "no room for this blob", RetryAfter: 10 * time.Second,
		}
	case errors.As(err, &tooBig):
		return &StatusError{Status: http.StatusRequestEntityTooLarge, Code: codeInvalid, Text: tooBig.Error()}
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.Canceled):
		return &StatusError{Status: http.StatusBadRequest, Code: codeInvalid, Text: "the body ended early"}
	}
	return &StatusError{Status: http.StatusInternalServerError, Code: codeInternal, Text: "the blob store has a problem"}
}

func (h *handler) put(q *request) error {
	size := q.ContentLength
	if size < 0 {
		return &StatusError{Status: http.StatusLengthRequired, Code: codeInvalid, Text: "a PUT must announce its length"}
	}
	if size > h.o.MaxBytes {
		return &StatusError{
			Status: http.StatusRequestEntityTooLarge, Code: codeInvalid,
			Text: fmt.Sprintf("%d bytes; a blob has at most %d", size, h.o.MaxBytes),
		}
	}
	status := http.StatusOK
	err := h.store.Put(q.Context(), q.digest, size, func() (io.ReadCloser, error) {
		status = http.StatusCreated
		return &body{h: h, q: q, r: http.MaxBytesReader(q.w, q.Body, size)}, nil
	})
	if err != nil {
		return err
	}
	q.w.Header().Set("ETag", etag(q.digest))
	q.w.WriteHeader(status)
	return nil
}

// body reads a request's body and cuts off a client that stands still. The deadline
// is taken away in between, while the server waits for its disk: the server watches
// the connection then, and would take the deadline for the client's end.
type body struct {
	h *handler
	q *request
	r io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	b.q.rc.SetReadDeadline(b.h.o.Now().Add(b.h.o.Stall)) //nolint:errcheck // a test's recorder has none
	n, err := b.r.Read(p)
	if err == nil || err == io.EOF { //nolint:errorlint // a body gives it unwrapped
		b.q.rc.SetReadDeadline(time.Time{}) //nolint:errcheck // a test's recorder has none
	}
	return n, err
}

func (b *body) Close() error { return b.r.Close() }
