package blob

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/roost-ci/roost/snapshot"
)

// refPrefix is where a Handler has refs, below its base. It can't be a digest.
const refPrefix = "/refs/"

// ref serves GET and PUT of /refs/{id}.
func (h *handler) ref(q *request) error {
	refs, ok := h.store.(Refs)
	id, err := snapshot.ParseID(strings.TrimPrefix(q.URL.Path, refPrefix))
	if !ok || err != nil || q.URL.RawPath != "" {
		return &StatusError{Status: http.StatusNotFound, Code: codeNotFound, Text: "no such ref"}
	}
	switch q.Method {
	case http.MethodGet, http.MethodHead:
		b, err := refs.GetRef(q.Context(), id)
		if err != nil {
			return err
		}
		q.w.Header().Set("Content-Type", "application/json")
		q.begun = true
		q.w.Write(b) //nolint:errcheck // the client has gone: nobody to tell
		return nil
	case http.MethodPut:
		b, err := io.ReadAll(&body{h: h, q: q, r: http.MaxBytesReader(q.w, q.Body, MaxRefBytes)})
		if err != nil {
			return fmt.Errorf("ref %s: %w", id, err)
		}
		if err := refs.PutRef(q.Context(), id, b); err != nil {
			return err
		}
		q.w.WriteHeader(http.StatusCreated)
		return nil
	}
	q.w.Header().Set("Allow", "GET, HEAD, PUT")
	return &StatusError{Status: http.StatusMethodNotAllowed, Code: codeInvalid, Text: "a ref can be got and put"}
}

func (h *HTTP) refRequest(ctx context.Context, method string, id snapshot.ID, b []byte) (*http.Response, error) {
	if err := checkRef(id, b); err != nil {
		return nil, err
	}
	var body io.Reader = http.NoBody
	if b != nil {
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, h.base+refPrefix+string(id), body)
	if err != nil {
		return nil, fmt.Errorf("ref %s: %w", id, err)
	}
	if h.token != nil {
		r.Header.Set("Authorization", "Bearer "+h.token())
	}
	resp, err := h.c.Do(r) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, fmt.Errorf("ref %s: %w", id, err)
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer closeBody(resp)
	err = answerError(resp, snapshot.Digest{})
	var bad *snapshot.CorruptError
	if errors.As(err, &bad) {
		return nil, otherRef(id)
	}
	return nil, fmt.Errorf("ref %s: %w", id, err)
}

// PutRef implements Refs.
func (h *HTTP) PutRef(ctx context.Context, id snapshot.ID, b []byte) error {
	resp, err := h.refRequest(ctx, http.MethodPut, id, b)
	if err != nil {
		return err
	}
	closeBody(resp)
	// A 200 alone is no proof that this is a blob server: ask for it.
	got, err := h.GetRef(ctx, id)
	if err == nil && !bytes.Equal(got, b) {
		err = fmt.Errorf("ref %s: the server does not give back what it took: is that a blob server?", id)
	}
	return err
}

// GetRef implements Refs.
func (h *HTTP) GetRef(ctx context.Context, id snapshot.ID) ([]byte, error) {
	resp, err := h.refRequest(ctx, http.MethodGet, id, nil)
	if err != nil {
		return nil, err
	}
	defer closeBody(resp)
	return readRef(id, resp.Body)
}
