package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/roost-ci/roost/plugin"
	"github.com/roost-ci/roost/plugin/wire/wirepb"
	"github.com/roost-ci/roost/snapshot"
)

// maxText bounds the text of an error, in bytes.
const maxText = 32 << 10

// kinds are the errors that keep their identity.
var kinds = []struct {
	err  error
	code codes.Code
}{
	{context.Canceled, codes.Canceled},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{snapshot.ErrNotFound, codes.NotFound},
	{snapshot.ErrBusy, codes.FailedPrecondition},
	{plugin.ErrInvalid, codes.InvalidArgument},
	{plugin.ErrUnavailable, codes.Unavailable},
}

// encode makes an error fit to travel.
func encode(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			code = k.code
			break
		}
	}
	st := status.New(code, clean(err.Error()))
	if coded, ok := errors.AsType[*plugin.Error](err); ok && coded.Code != "" {
		if with, err := st.WithDetails(&wirepb.ErrorDetail{Code: clean(coded.Code)}); err == nil {
			st = with
		}
	}
	return st.Err()
}

// remoteError is an error that the other side had.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// decode is the way back. What gRPC itself says about a broken connection is Unavailable,
// too.
func decode(err error) error {
	if err == nil {
		return nil
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	r := &remoteError{text: st.Message()}
	for _, k := range kinds {
		if st.Code() == k.code {
			r.is = append(r.is, k.err)
		}
	}
	for _, d := range st.Details() {
		if d, ok := d.(*wirepb.ErrorDetail); ok {
			r.is = append(r.is, &plugin.Error{Code: d.GetCode(), Text: st.Message()})
		}
	}
	if r.is == nil && st.Code() != codes.Unknown { // gRPC's own, such as a message that is too large
		r.text = fmt.Sprintf("%s (%s)", r.text, st.Code())
	}
	return r
}

// clean makes text fit for a protobuf string, which must be UTF-8, and bounds it.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", plugin.ErrInvalid, fmt.Errorf(format, args...))
}
