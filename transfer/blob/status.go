package blob

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/roost-ci/roost/snapshot"
)

// Codes in the body of an answer above 399; the coordinator's API has the same.
const (
	codeNotFound = "NOT_FOUND"
	codeInvalid  = "INVALID"
	codeDigest   = "DIGEST_MISMATCH"
	codeFull     = "STORE_FULL"
	codeInternal = "INTERNAL"
)

// StatusError is an answer that is not what was asked for. It is
// snapshot.ErrNotFound if the status is 404, and ErrFull if it is 507.
type StatusError struct {
	Status     int           `json:"-"`
	Code       string        `json:"code"`
	Text       string        `json:"error"`
	RetryAfter time.Duration `json:"-"` // 0 if the server did not say
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("blob store answered %d %s: %.200s", e.Status, e.Code, e.Text)
}

// Is lets errors.Is find what the status stands for.
func (e *StatusError) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == snapshot.ErrNotFound //nolint:errorlint // this is what errors.Is calls
	case http.StatusInsufficientStorage:
		return target == ErrFull //nolint:errorlint // this is what errors.Is calls
	}
	return false
}

// Temporary reports whether the same request may succeed later.
func (e *StatusError) Temporary() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusTooEarly:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return e.Status >= 500
}

// maxRetryAfter bounds what a server may ask for.
const maxRetryAfter = 10 * time.Minute

// retryAfter reads the header's seconds. Its other form, a date, is ignored: clocks
// need not agree.
func retryAfter(h http.Header) time.Duration {
	n, err := strconv.ParseUint(h.Get("Retry-After"), 10, 31)
	if err != nil {
		return 0
	}
	return min(time.Duration(n)*time.Second, maxRetryAfter)
}
